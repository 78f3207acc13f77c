"""The records of rollout files: of one file, or of all files of a folder, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from envs.data.jsonl import require_file
from envs.data.sources.files import ENDINGS, ending_of, folder_and_split, read_records
from envs.data.sources.hugging_face import PREFIX, is_saved
from envs.errors import InputError

PURPOSE = "rollout file"
OnBad = Callable[[InputError], object]
"""Gets the error of a record that cannot be read."""
_JSON = (".jsonl", ".ndjson", ".json")


def read_files(source: str | Path, on_bad: OnBad) -> tuple[str, Iterator[tuple[str, dict[str, Any]]]]:
    """Opens a file, a folder, a saved data set or a hub name.

    Of a folder every file is read whose ending is known, in the natural order of their paths: 2 before 10.

    Args:
        source: as `envs.data.sources.files.read_records` takes it.
        on_bad: called with the error of a line that is no JSON, or of a file that breaks off, after which
            reading goes on.

    Returns:
        The name of the data set, and (place such as "file:line", fields) of each record.

    Raises:
        InputError: the source does not exist, is of an unknown kind or nothing of it can be read.
    """
    path, split = folder_and_split(source)
    if path.is_dir() and not (split or is_saved(path)):
        files = sorted((file for file in path.rglob("*") if _is_read(file, path)), key=_natural)
        if not files:
            raise InputError(f"{source}: the folder holds no file that ends in {', '.join(ENDINGS)}")
        return path.absolute().name, _read_all(files, on_bad)
    name, records = read_records(source, PURPOSE, on_bad)
    if path.is_dir() or str(source).startswith(PREFIX):
        return name, ((where, of_table(fields)) for where, _, fields in records)
    require_file(path, PURPOSE)
    return name, _read_one(path, on_bad, alone=True)


def of_table(fields: dict[str, Any], columns: Iterable[str] = ()) -> dict[str, Any]:
    """A table's record, with null in the `columns` where it has nothing.

    It is without the null fields of objects in lists, such as the arguments of a tool's call: a table has
    them where another of these objects has the field.
    """
    whole = dict.fromkeys(columns) | fields
    return {
        name: _without_nulls(value) if isinstance(value, list) else value for name, value in whole.items()
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _is_read(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and ending_of(file) in ENDINGS and file.is_file()


def _natural(path: Path) -> list[list[str | int]]:
    """Sorts numbers within names by their value."""
    return [
        [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)] for name in path.parts
    ]


def _read_all(files: list[Path], on_bad: OnBad) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        yield from _read_one(file, on_bad, alone=False)


def _read_one(file: Path, on_bad: OnBad, *, alone: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file up to where it breaks off.

    Raises:
        InputError: nothing of the only file can be read.
    """
    whole, ending, columns = 0, ending_of(file), ()
    try:
        for where, _, fields in read_records(file, PURPOSE, on_bad)[1]:
            if ending == ".parquet" and not whole:
                columns = pq.read_schema(file).names
            yield where, fields if ending in _JSON else of_table(fields, columns)
            whole += 1
    except InputError as error:
        if alone and not whole:
            raise
        on_bad(InputError(f"{error}, after {whole} whole records") if whole else error)
