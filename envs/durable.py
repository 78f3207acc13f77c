"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, text: str) -> None:
    """Replaces `path` by `text` so that a reader, or a crash, sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


TEMPORARY = ".tmp"
"""Ending of a file that is being written."""


def write_durably(path: Path, fill: Callable[[BinaryIO], object]) -> int:
    """Let `fill` write a temporary file beside `path`, make it durable, then give it its name.

    Returns its bytes.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with temporary.open("wb") as file:
        fill(file)
        file.flush()
        size = file.tell()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
    return size


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
