"""The log on disk: append Parquet files and merge them, crash-safe (see `manifest`).

`writer` adds the thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.rollout_log.folder import Location, RolloutLogError, WriterLock, open_folder
from pipeline.rollout_log.manifest import (
    MANIFEST,
    LogFile,
    Manifest,
    check_files,
    load_manifest,
    remove_leftovers,
)
from pipeline.rollout_log.schema import TABLES

ROW_GROUP_ROWS = 122_880
ROW_GROUP_BYTES = 64 * 2**20
READER_GRACE_SECONDS = 60.0
"""How long merged parts outlive their merge, so that a query which is under way can finish."""


class RolloutLogStore:
    """The files of one run's log. Holds the writer lock until `close`."""

    def __init__(self, location: Location, run_id: str):
        self.folder = open_folder(location)
        self._lock = WriterLock(self.folder)
        try:
            exists = self.folder.size(MANIFEST) is not None
            self.manifest = load_manifest(self.folder) if exists else Manifest(run_id)
            if self.manifest.run_id != run_id:
                raise RolloutLogError(
                    f"{self.folder} holds the log of run {self.manifest.run_id}, not of {run_id}; choose "
                    "another folder"
                )
            remove_leftovers(self.folder, self.manifest)
            check_files(self.folder, self.manifest)
        except BaseException:
            self._lock.release()
            raise
        self._retired: deque[tuple[float, str]] = deque()

    def begin_attempt(self, attempt: int, started_at: str, run_table: pa.Table) -> None:
        """Registers an attempt with its row of `runs`.

        Raises RolloutLogError unless it follows those that are there.
        """
        expected = max(self.manifest.attempts, default=0) + 1
        if attempt < expected:
            raise RolloutLogError(
                f"attempt {attempt} of {self.folder} was written before; the next is {expected}"
            )
        self.manifest.attempts[attempt] = started_at
        self._commit([self._write("runs", f"attempt-{attempt}", run_table)], drop=[])

    def replace_run_row(self, attempt: int, run_table: pa.Table) -> None:
        """Replaces the attempt's row of `runs`."""
        old = [file for file in self.manifest.of("runs") if file.path.startswith(f"runs/attempt-{attempt}-")]
        self._commit([self._write("runs", f"attempt-{attempt}", run_table)], drop=old)

    def append(self, tables: dict[str, pa.Table], label: str) -> None:
        """Adds one file per table; all become visible together."""
        self._commit([self._write(name, label, table) for name, table in tables.items()], drop=[])

    def merge(self, *, everything: bool = False) -> None:
        """Merges the parts since the last merge, or `everything`, into one file per table.

        Rows keep the order in which they were written: attempt, iteration, split, episode, turn. `runs` stays
        as it is.
        """
        added, dropped = [], []
        for name in TABLES:
            files = [file for file in self.manifest.of(name) if everything or not file.merged]
            if name == "runs" or len(files) < 2:
                continue
            added.append(self._write_merged(name, files))
            dropped += files
        if added:
            self._commit(added, drop=dropped)

    def delete_retired(self, *, at_once: bool = False) -> None:
        """Deletes merged parts whose grace has passed."""
        while self._retired and (at_once or self._retired[0][0] <= monotonic()):
            self.folder.delete(self._retired.popleft()[1])

    def close(self) -> None:
        self.delete_retired(at_once=True)
        self._lock.release()

    def _write(self, name: str, label: str, table: pa.Table) -> LogFile:
        return self._write_file(
            name, label, lambda file: pq.write_table(table, file, compression="zstd"), table.num_rows
        )

    def _write_merged(self, name: str, files: list[LogFile]) -> LogFile:
        schema = TABLES[name]

        def write(file: BinaryIO) -> None:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for table in _row_groups(self._read(part, schema) for part in files):
                    writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

        return self._write_file(name, "merged", write, sum(file.rows for file in files), merged=True)

    def _read(self, file: LogFile, schema: pa.Schema) -> Iterator[pa.Table]:
        try:
            with self.folder.open(file.path) as opened, pq.ParquetFile(opened) as parquet:
                for group in range(parquet.num_row_groups):
                    yield conform(parquet.read_row_group(group), schema)
        except (OSError, pa.ArrowInvalid) as error:
            raise RolloutLogError(
                f"{self.folder}/{file.path} cannot be read ({error}): restore the file from a copy"
            ) from error

    def _write_file(
        self, name: str, label: str, write: Callable[[BinaryIO], object], rows: int, merged: bool = False
    ) -> LogFile:
        path = f"{name}/{label}-{self.manifest.generation + 1:06d}.parquet"
        return LogFile(name, path, rows, self.folder.write(path, write), merged)

    def _commit(self, added: list[LogFile], drop: list[LogFile]) -> None:
        manifest = self.manifest
        kept: list[LogFile] = []
        # A merged file takes the place of the first file that it replaces, so that the order of writing is
        # kept.
        place = {file.table: file for file in added if file.merged}
        for file in manifest.files:
            if file not in drop:
                kept.append(file)
            elif file.table in place:
                kept.append(place.pop(file.table))
        kept += [file for file in added if file not in kept]
        manifest.files = kept
        manifest.generation += 1
        manifest.save(self.folder)
        deadline = monotonic() + READER_GRACE_SECONDS
        self._retired.extend((deadline, file.path) for file in drop)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns a table of an older schema version in today's: columns that it lacks are null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _row_groups(files: Iterator[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Gathers small tables into row groups of a good size, holding no more than one in memory."""
    gathered: list[pa.Table] = []
    for file in files:
        for table in file:
            gathered.append(table)
            if (
                sum(t.num_rows for t in gathered) >= ROW_GROUP_ROWS
                or sum(t.nbytes for t in gathered) >= ROW_GROUP_BYTES
            ):
                yield pa.concat_tables(gathered)
                gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def compact(location: Location) -> dict[str, tuple[int, int]]:
    """Merges the log of a run that died, as its writer's `close` would have done.

    Returns table name to (number of files before, after). Raises RolloutLogError if there is no log at
    `location` or if it is still being written (seen for a local folder only).
    """
    manifest = load_manifest(location)
    before = {name: len(manifest.of(name)) for name in TABLES}
    store = RolloutLogStore(location, manifest.run_id)
    try:
        store.merge(everything=True)
    finally:
        store.close()
    return {name: (before[name], len(store.manifest.of(name))) for name in TABLES}
