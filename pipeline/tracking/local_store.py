"""MLflow's SQLite store in a folder of runs: there as a whole, or not at all.

MLflow makes its tables in dozens of steps, each of which stays. A process that is killed among them leaves a
file that MLflow never opens again, and two processes that make them at once break it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from envs.durable import TEMPORARY
from envs.locks import FileLock


@contextmanager
def local_store(file: Path) -> Generator[None]:
    """Makes the store where it is not there; no other process opens or makes it during the block.

    Raises:
        RuntimeError: the block met a store that something else left half made.
    """
    from sqlalchemy.exc import OperationalError

    lock = FileLock(file.parent / ".mlflow.lock")
    lock.acquire(wait=True)
    try:
        make_store(file)
        yield
    except OperationalError as error:
        if "already exists" not in str(error):
            raise
        raise RuntimeError(
            f"{file} is half a store, left by a process that was killed while it made it: move it away"
        ) from error
    finally:
        lock.release()


def make_store(file: Path) -> None:
    """Makes the store where it is not there. One process at a time may do it."""
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
