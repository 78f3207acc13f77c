"""MLflow's SQLite store in a folder of runs: there as a whole, or not at all.

MLflow makes its tables in dozens of steps, each of which stays. A process that is killed among them leaves a
file that MLflow never opens again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from envs.durable import TEMPORARY


def make_store(file: Path) -> None:
    """Makes the store where it is not there. Hold a lock: one process at a time may make it."""
    if file.exists():
        return
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in file.parent.glob(f"{file.name}.*{TEMPORARY}*"):  # of a process that was killed
        left.unlink(missing_ok=True)
    # A new name each time: MLflow keeps an engine, and so the file, of each that was begun in this process.
    made = file.with_name(f"{file.name}.{uuid.uuid4().hex}{TEMPORARY}")
    SqlAlchemyStore(f"sqlite:///{made}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()
    os.replace(made, file)


@contextmanager
def half_a_store_named(file: Path) -> Generator[None]:
    """Raises RuntimeError with what to do where `file` is a store that something else left half made."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        if "already exists" not in str(error):
            raise
        raise RuntimeError(
            f"{file} is half a store, left by a process that was killed while it made it: move it away"
        ) from error
