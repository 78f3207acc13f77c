"""Records of what the library `datasets` reads: hub names, folders of data files, saved data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.data.sources.tables import without_nothing
from envs.errors import InputError
from envs.git_lfs import refuse_pointer

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<name>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<split>[^:@]+))?")
_SAVED = ("dataset_info.json", "dataset_dict.json")
DEFAULT_SPLIT = "train"


def is_saved(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` wrote the folder."""
    return any((folder / name).is_file() for name in _SAVED)


def read_hub(source: str) -> tuple[str, Iterator[tuple[str, int, dict]]]:
    """Streams `hf:NAME[:CONFIG][@SPLIT]`, so only the records that are read are downloaded.

    NAME may be a local folder of data files: `hf:./folder@validation`.

    Returns:
        The data set's name, and (place, row from 0, fields) of each record.

    Raises:
        InputError: the name has another form, `datasets` is not installed, or the data set can't be loaded.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise InputError(
            f"{source} must have the form hf:NAME[:CONFIG][@SPLIT], for instance hf:owner/name:nq@dev"
        )
    name, config, split = match["name"], match["config"], match["split"] or DEFAULT_SPLIT
    folder = Path(name)
    if folder.is_dir() and is_saved(folder):
        return folder.name, read_folder(folder, match["split"], source)
    return config or folder.name, _streamed(source, name, config, split)


def read_folder(folder: Path, split: str | None, source: str) -> Iterator[tuple[str, int, dict]]:
    """Reads a folder that `save_to_disk` wrote, or one of data files.

    Args:
        folder: the folder.
        split: its part; None: `train`, or the only one there is.
        source: what a person typed, for messages.
    """
    if not is_saved(folder):
        yield from _streamed(source, str(folder), None, split or DEFAULT_SPLIT)
        return
    library = _library(source)
    _refuse_pointers(folder, source)
    try:
        loaded: Any = library.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds for what is a damaged folder
        raise _not_loaded(source, error) from error
    if isinstance(loaded, library.DatasetDict):
        parts = list(loaded)
        chosen = split or (parts[0] if len(parts) == 1 else DEFAULT_SPLIT)
        if chosen not in parts:
            raise InputError(f"{source} has no split {chosen!r}; it has {', '.join(parts)}: add @{parts[0]}")
        loaded = loaded[chosen]
    for row, fields in enumerate(loaded):
        yield f"{source} row {row}", row, without_nothing(fields)


def _streamed(source: str, name: str, config: str | None, split: str) -> Iterator[tuple[str, int, dict]]:
    library = _library(source)
    _refuse_pointers(Path(name), source)
    try:
        for row, fields in enumerate(library.load_dataset(name, config, split=split, streaming=True)):
            yield f"{source} row {row}", row, without_nothing(fields)
    except Exception as error:  # the library raises many kinds for what is a wrong name, split or no network
        raise _not_loaded(source, error) from error


def _refuse_pointers(folder: Path, source: str) -> None:
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_file():
            refuse_pointer(path, source)


def _not_loaded(source: str, error: Exception) -> InputError:
    reason = next(iter(str(error).splitlines()), "")
    return InputError(f"{source} can't be loaded: {type(error).__name__}: {reason}")


def _library(source: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{source} needs the package datasets: install the extra `hf` of igpo-rllib"
        ) from error
    return datasets
