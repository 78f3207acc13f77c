"""Which files make up a log: one small JSON file, replaced atomically, is the only thing that a reader trusts.

A file that the manifest does not name does not exist for a reader: a half-written one, a leftover of a killed writer,
parts that were already merged. Every change of the log is therefore: write new files under temporary names, make them
durable, rename them, replace the manifest, delete what it no longer names. Killed anywhere in between, the log reads as
before or as after, never as a mixture.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.rollout_log.schema import SCHEMA_VERSION, TABLES

MANIFEST = "manifest.json"
TEMPORARY = ".tmp"


class RolloutLogError(RuntimeError):
    """A rollout log that cannot be read or written, and what to do about it."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """One Parquet file of the log."""

    table: str
    path: str
    """Relative to the log's folder."""
    rows: int
    bytes: int
    merged: bool = False


@dataclass(slots=True)
class Manifest:
    """The files of a log in the order in which they were written. `attempts`: number to start (ISO, UTC)."""

    run_id: str
    attempts: dict[int, str] = field(default_factory=dict)
    files: list[LogFile] = field(default_factory=list)
    generation: int = 0
    """Counts the changes; part of each file's name, so that no name is used twice."""
    schema_version: int = SCHEMA_VERSION

    def of(self, table: str) -> list[LogFile]:
        return [file for file in self.files if file.table == table]

    @property
    def last_started_at(self) -> str:
        """Start of the latest attempt, ISO."""
        return self.attempts[max(self.attempts)] if self.attempts else ""

    def save(self, directory: Path) -> None:
        text = json.dumps(asdict(self), indent=1)
        write_durably(directory / MANIFEST, lambda path: path.write_text(text))


def load_manifest(directory: Path) -> Manifest:
    """Raises RolloutLogError where there is no log, or one that this version cannot read."""
    path = directory / MANIFEST
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RolloutLogError(
            f"no rollout log in {directory}: it has no {MANIFEST}; name the folder of a run that has started"
        ) from None
    except json.JSONDecodeError as error:
        raise RolloutLogError(
            f"{path} is not valid JSON ({error}); restore it from a copy, it is always written whole"
        ) from error
    version = content.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise RolloutLogError(
            f"{path} has schema version {version}, this package reads up to {SCHEMA_VERSION}; "
            "install the version that wrote the run"
        )
    return Manifest(
        run_id=content["run_id"],
        attempts={int(attempt): started_at for attempt, started_at in content["attempts"].items()},
        files=[LogFile(**entry) for entry in content["files"]],
        generation=content["generation"],
        schema_version=SCHEMA_VERSION,
    )


def check_files(directory: Path, manifest: Manifest) -> None:
    """Raises RolloutLogError naming the first file that is missing or not as long as when it was written."""
    for file in manifest.files:
        path = directory / file.path
        if not path.exists():
            raise RolloutLogError(
                f"{path} is missing, though the log's {MANIFEST} names it; restore the file or remove its entry"
            )
        if path.stat().st_size != file.bytes:
            raise RolloutLogError(
                f"{path} has {path.stat().st_size} bytes, {file.bytes} were written: it is damaged; restore it or "
                f"remove its entry from {MANIFEST}"
            )


def write_durably(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, make it durable, then give it its name."""
    temporary = path.with_name(path.name + TEMPORARY)
    write(temporary)
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: Path, manifest: Manifest) -> list[Path]:
    """Delete what a killed writer left: temporary and unnamed files. Only for the lock's holder."""
    named = {directory / file.path for file in manifest.files}
    leftovers = [directory / (MANIFEST + TEMPORARY)]
    leftovers += [path for table in TABLES for path in (directory / table).glob("*.parquet*") if path not in named]
    removed = [path for path in leftovers if path.exists()]
    for path in removed:
        path.unlink()
    return removed


class WriterLock:
    """At most one process writes a log; the operating system releases the lock of a process that dies."""

    def __init__(self, directory: Path):
        self._file = (directory / ".lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RolloutLogError(f"{directory} is being written by another process; wait until that run ends") from None

    def release(self) -> None:
        self._file.close()
