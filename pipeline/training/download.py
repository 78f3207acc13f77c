"""Downloads a model of the hub before an engine starts, in sight: inside the learner nobody would see it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from envs.engine.models import resolve_model
from envs.errors import InputError

if TYPE_CHECKING:
    from pipeline.terminal import Console

logger = logging.getLogger(__name__)

TEXTS = (".json", ".txt", ".model", ".jinja", ".py")
"""Configuration, tokenizer, chat template, a model's own code."""
WEIGHTS_OF_TRANSFORMERS = {"model.safetensors", "model.safetensors.index.json"}
EVERY = 60.0
"""Seconds between two lines where no bar can be drawn."""
LOOK = 0.5
"""Seconds between two looks at what is there."""


def download_model(model_path: str | None, console: Console) -> None:
    """Brings the files of a model on the hub into its cache, with a bar; does nothing where they are there.

    Where the hub can't be asked, the cache has to do: whoever loads the model says what is missing.

    Raises:
        InputError: the download broke off.
    """
    name = resolve_model(model_path)
    if Path(name).is_dir():
        return
    import huggingface_hub

    try:
        files: Any = huggingface_hub.snapshot_download(name, dry_run=True)
    except Exception as error:  # of many kinds: no network, no such model, no right to it
        logger.info("the hub does not say what %s holds: %s", name, error)
        return
    wanted = _needed(files)
    missing = sum(file.file_size or 0 for file in wanted if file.will_download)
    if not missing:
        return
    folder = _blobs(wanted)
    before = _bytes_in(folder)
    failure: list[Exception] = []

    def work() -> None:
        try:
            huggingface_hub.snapshot_download(name, allow_patterns=[file.filename for file in wanted])
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="download", daemon=True)
    thread.start()
    console.print(f"downloading {name}, {missing / 1e9:,.1f} GB, to {folder.parent}", soft_wrap=True)
    _show(thread, lambda: _bytes_in(folder) - before, missing, console)
    if failure:
        raise InputError(
            f"model_path {model_path}: the download broke off: "
            f"{next(iter(str(failure[0]).splitlines()), '')}; the same command goes on where it stopped"
        ) from failure[0]


def _needed(files: Sequence[Any]) -> list[Any]:
    """The weights in one format and the texts; other frameworks' weights stay there.

    So do Mistral's own (`consolidated.safetensors`) where the same weights are there as transformers reads
    them.
    """
    formats = (".safetensors", ".bin")
    weights = next((f for f in formats if any(file.filename.endswith(f) for file in files)), formats[0])
    top = {file.filename: file for file in files if "/" not in file.filename}
    if top.keys() & WEIGHTS_OF_TRANSFORMERS:
        top = {name: file for name, file in top.items() if not name.startswith("consolidated")}
    return [file for name, file in top.items() if name.endswith((weights, *TEXTS))]


def _blobs(files: Sequence[Any]) -> Path:
    """The folder of the cache that files grow in: beside `snapshots`, of which each path is a part."""
    snapshot = Path(files[0].local_path).parent
    return snapshot.parent.parent / "blobs"


def _bytes_in(folder: Path) -> int:
    """Bytes of all files, those under way included."""
    total = 0
    for path in folder.glob("*") if folder.is_dir() else ():
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:  # renamed, as it is whole now
            continue
    return total


def _show(thread: threading.Thread, done: Any, total: int, console: Console) -> None:
    """Shows the bytes until the thread ends: as a bar on a terminal, else as a line now and then."""
    if not console.is_terminal:
        while thread.is_alive():
            thread.join(EVERY)
            state = "downloading" if thread.is_alive() else "download ended"
            console.print(f"{state}: {min(done(), total) / 1e9:,.1f} of {total / 1e9:,.1f} GB")
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("downloading", total=total)
        while thread.is_alive():
            thread.join(LOOK)
            progress.update(task, completed=min(done(), total))
