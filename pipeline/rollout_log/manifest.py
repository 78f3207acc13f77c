"""The manifest of a log, one small JSON file that names the log's files and is replaced atomically.

A file that the manifest does not name does not exist for a reader: a half-written one, a leftover of a killed
writer, parts that were already merged. Every change of the log is therefore: write new files under temporary
names, make them durable, rename them, replace the manifest, delete what it no longer names. Killed anywhere
in between, the log reads as before or as after, never as a mixture.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter, ValidationError

from envs.durable import TEMPORARY
from pipeline.rollout_log.folder import LocalFolder, Location, LogFolder, RolloutLogError, open_folder
from pipeline.rollout_log.schema import SCHEMA_VERSION, TABLES

MANIFEST = "manifest.json"
_NAME = re.compile(r"[\w+-][\w.+-]*\.parquet", re.ASCII)


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

    def save(self, location: Location) -> None:
        text = json.dumps(asdict(self), indent=1).encode()
        open_folder(location).write(MANIFEST, lambda file: file.write(text))


def load_manifest(location: Location) -> Manifest:
    """Raises RolloutLogError where there is no log, or one that this version cannot read."""
    folder = open_folder(location)
    path = f"{folder}/{MANIFEST}"
    try:
        content = json.loads(folder.read(MANIFEST))
    except FileNotFoundError:
        raise RolloutLogError(
            f"no rollout log in {folder}: it has no {MANIFEST}; name the folder of a run that has started"
        ) from None
    except OSError as error:
        raise RolloutLogError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise RolloutLogError(
            f"{path} is not valid JSON ({error}); restore it from a copy, it is always written whole"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise RolloutLogError(
            f"{path} has schema version {version}, this package reads up to {SCHEMA_VERSION}; "
            "install the version that wrote the run"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_python(content | {"schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RolloutLogError(
            f"{path} is no manifest of a rollout log ({place}: {first['msg']}); restore it from a copy"
        ) from error
    check_names(folder, manifest)
    return manifest


def check_names(folder: LogFolder, manifest: Manifest) -> None:
    """Raises RolloutLogError for a file that is not where the log keeps the files of its table.

    The log may be a stranger's. A name like `../../other.parquet`, or a table's folder that is a link out of
    the log, would have a reader open files, and a writer delete files, that are none of the log.
    """
    for file in manifest.files:
        table, _, name = file.path.partition("/")
        if file.table not in TABLES or table != file.table or not _NAME.fullmatch(name):
            raise RolloutLogError(
                f"{folder}/{MANIFEST} names the file {file.path!r} of table {file.table!r}, which is no "
                "TABLE/NAME.parquet inside the log: it was changed by hand; do not trust this log"
            )
    if isinstance(folder, LocalFolder):
        for table in TABLES:
            place = folder.root / table
            if place.exists() and place.resolve().parent != folder.root.resolve():
                raise RolloutLogError(
                    f"{place} is a link to {place.resolve()}, outside the log: put the folder itself there"
                )


def check_files(folder: LogFolder, manifest: Manifest) -> None:
    """Raises RolloutLogError naming the first file that is missing or not as long as when it was written."""
    for file in manifest.files:
        size = folder.size(file.path)
        if size is None:
            raise RolloutLogError(
                f"{folder}/{file.path} is missing, though the log's {MANIFEST} names it; restore the file "
                "or remove its entry"
            )
        if size != file.bytes:
            raise RolloutLogError(
                f"{folder}/{file.path} has {size} bytes, {file.bytes} were written: it is damaged; restore "
                f"it or remove its entry from {MANIFEST}"
            )


def remove_leftovers(folder: LogFolder, manifest: Manifest) -> None:
    """Deletes what a killed writer left: temporary and unnamed files. Only for the log's one writer."""
    named = {file.path for file in manifest.files}
    if folder.size(MANIFEST + TEMPORARY) is not None:
        folder.delete(MANIFEST + TEMPORARY)
    for name in (name for table in TABLES for name in folder.names(table)):
        if ".parquet" in name and name not in named:
            folder.delete(name)
