"""The study's folder: a small Parquet table per finished cell, so that only missing cells run.

The metadata of each table holds the cell's fingerprint and learning rate, the versions, machine and commit.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from envs.durable import write_file
from envs.errors import InputError
from envs.locks import FileLock
from pipeline.run_directory import provenance
from pipeline.study.measures import SCHEMA
from pipeline.study.plan import Cell

METADATA_KEY = b"igpo_study"


@dataclass(frozen=True)
class FinishedCell:
    """A cell's table and its provenance."""

    cell: Cell
    table: pa.Table
    facts: dict[str, Any]


class Store:
    """Cells of one study in `folder`."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def load(self, cell: Cell, fingerprint: str) -> FinishedCell | None:
        """Loads the finished cell; None if it has not been run, or was run with another configuration."""
        path = self._path(cell)
        if not path.is_file():
            return None
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[METADATA_KEY])
        except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: this cell is damaged ({error}): remove the file, and it is run again."
            ) from error
        return FinishedCell(cell, table, facts) if facts["fingerprint"] == fingerprint else None

    def is_stale(self, cell: Cell, fingerprint: str) -> bool:
        """Tells whether there is a table of this name that was made with another configuration."""
        return self._path(cell).is_file() and self.load(cell, fingerprint) is None

    def save(self, cell: Cell, fingerprint: str, learning_rate: Any, rows: list[dict[str, Any]]) -> None:
        """Writes the cell's rows to its file, which is complete or absent. The rate may be a schedule."""
        facts = {
            "fingerprint": fingerprint,
            "learning_rate": learning_rate,
            "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
            "git_commit": provenance.git_commit(),
        }
        table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({METADATA_KEY: json.dumps(facts)}))
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda file: pq.write_table(table, file, compression="zstd"))

    @contextmanager
    def claim(self, cell: Cell) -> Generator[bool]:
        """Yields True to the one process that gets the cell, and False to the others until it is done.

        The claim ends with the process, however that ends.
        """
        path = self._path(cell).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        if not lock.acquire():
            yield False
            return
        try:
            yield True
        finally:
            lock.release(remove=True)

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.name}.parquet"
