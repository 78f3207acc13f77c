"""`runs/NAME/RUN_ID/`: the one folder that a run writes to, with its metadata.

`run.json` holds the run's metadata: identity, versions, hardware, and one entry per attempt (a fresh start is
attempt 1, each resume the next). It is replaced atomically, so a run that was killed at any instant can be
found and resumed; credentials in it are masked. A lock, which the system frees when its process dies, keeps
two processes from training in one directory.
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from envs.credentials import masked_values
from envs.durable import write_text
from envs.errors import InputError
from envs.locks import FileLock
from pipeline.rollout_log.folder import join

SCHEMA_VERSION = 1
FINISHED = "finished"
METADATA = "run.json"
LOCK = ".lock"
CONFIG = "config.yaml"
HELDOUT_BEFORE, HELDOUT_LAST = "heldout_before.json", "heldout_last.json"
"""Files of a run's directory with its held-out scores by question, so that a resumed run need not evaluate
again."""
LOG_LOCATION = "rollouts.url"
"""File of a run's directory that names the place of its rollout log, where that is outside the directory."""


class RunDirectory:
    """One run's folder. Make one with `create`, find those of a name with `find`, open one by its path."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser().absolute()
        if not self.metadata_path.is_file():
            raise InputError(f"{path}: this is no run directory (it has no run.json).")

    @classmethod
    def create(
        cls,
        root: str | Path,
        name: str,
        resolved: dict,
        facts: dict[str, Any] | None = None,
        *,
        run_id: str | None = None,
        rollout_log: str | None = None,
    ) -> RunDirectory:
        """Makes `root/name/run_id` with `config.yaml` (from `resolved`) and `run.json`.

        Args:
            root: folder of all runs.
            name: name of the experiment.
            resolved: the run as a resolved experiment file.
            facts: further metadata.
            run_id: name of the folder; None: date, time and four random digits.
            rollout_log: folder or URL of all runs' rollout logs, of which this run's is `NAME/RUN_ID`; None:
                `rollouts` in the run's directory.

        Raises:
            InputError: the folder exists, or cannot be made.
        """
        run_id = run_id or new_run_id()
        path = Path(root).expanduser().absolute() / name / run_id
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise _cannot_be_made(path, error) from error
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "run_id": run_id,
            "created": _now(),
            "status": "new",
            "iteration": 0,
            "attempts": [],
            **(facts or {}),
        }
        try:
            for part in ("checkpoints", "rollouts", "logs"):
                (path / part).mkdir()
            if rollout_log is not None:
                write_text(path / LOG_LOCATION, join(rollout_log, name, run_id) + "\n")
            write_text(path / CONFIG, _yaml(resolved))
            write_text(path / METADATA, _json(metadata))
        except BaseException as error:
            _remove(path)
            if isinstance(error, OSError):
                raise _cannot_be_made(path, error) from error
            raise
        return cls(path)

    def discard_if_unused(self) -> None:
        """Removes the directory of a run of which no attempt began."""
        if not self.metadata["attempts"]:
            _remove(self.path)

    @classmethod
    def find(cls, root: str | Path, name: str) -> list[RunDirectory]:
        """The runs of `name`, oldest first. A folder without metadata, which a kill left half made, is
        skipped.
        """
        folder = Path(root).expanduser() / name
        # By the time of `config.yaml`, which stays that of the start: run ids of one second have no order.
        made = sorted(folder.glob(f"*/{CONFIG}"), key=lambda item: item.stat().st_mtime_ns)
        return [cls(item.parent) for item in made if (item.parent / METADATA).is_file()]

    @property
    def metadata_path(self) -> Path:
        return self.path / METADATA

    @property
    def config_path(self) -> Path:
        return self.path / CONFIG

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rollouts(self) -> str | Path:
        """Folder or URL of the rollout log: the experiment's, else `rollouts` in the run's directory."""
        elsewhere = self.path / LOG_LOCATION
        return elsewhere.read_text().strip() if elsewhere.exists() else self.path / "rollouts"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def name(self) -> str:
        return self.metadata["name"]

    @property
    def run_id(self) -> str:
        return self.metadata["run_id"]

    @property
    def metadata(self) -> dict[str, Any]:
        """`run.json` as it is now.

        Raises:
            InputError: it cannot be read, is damaged, or is of another version.
        """
        metadata = read_json(self.metadata_path, "restore it from a copy, or move the run's folder away")
        if metadata.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{self.metadata_path}: schema version {metadata.get('schema_version')}, this program reads "
                f"{SCHEMA_VERSION}."
            )
        if missing := [key for key in ("name", "run_id", "status", "attempts") if key not in metadata]:
            raise InputError(f"{self.metadata_path}: it lacks {', '.join(missing)}: restore it from a copy.")
        return metadata

    @property
    def resolved(self) -> dict:
        """The experiment as resolved when the run began; limits as widened and its end as moved since."""
        return yaml.safe_load(self.config_path.read_text(encoding="utf-8"))

    def replace_config(self, resolved: dict) -> None:
        """Writes another resolved experiment, under the time of the first one, by which runs are ordered."""
        times = self.config_path.stat()
        write_text(self.config_path, _yaml(resolved))
        os.utime(self.config_path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def note(self, **facts: Any) -> None:
        """Adds `facts` to the metadata."""
        write_text(self.metadata_path, _json({**self.metadata, **facts}))

    def begin_attempt(self, resumed_from_iteration: int | None) -> int:
        """Opens the next attempt and returns its number; one that a dead process left open is closed as
        `died`.

        Args:
            resumed_from_iteration: iteration of the checkpoint; None: a fresh start; -1: a resume without
                one.
        """
        attempts = self.metadata["attempts"]
        for attempt in attempts:
            if attempt["ended"] is None:
                attempt.update(ended=_now(), how="died")
        number = len(attempts) + 1
        attempts.append(
            {
                "attempt": number,
                "started": _now(),
                "resumed_from_iteration": resumed_from_iteration,
                "pid": os.getpid(),
                "ended": None,
                "how": None,
            }
        )
        self.note(attempts=attempts, status="running")
        return number

    def end_attempt(self, how: str, iteration: int) -> None:
        """Closes the open attempt. `how` becomes the run's status: `finished`, `interrupted` or `failed`."""
        attempts = self.metadata["attempts"]
        attempts[-1].update(ended=_now(), how=how, iteration=iteration)
        self.note(attempts=attempts, status=how, iteration=iteration)

    @property
    def is_locked(self) -> bool:
        """Whether a process holds the directory; True too where that cannot be told."""
        return FileLock(self.path / LOCK).is_held()

    @contextmanager
    def lock(self) -> Generator[None]:
        """Holds the directory for this process; the system frees it if the process dies.

        Raises:
            InputError: another process holds it, or the directory cannot be written.
        """
        lock = FileLock(self.path / LOCK)
        try:
            held = lock.acquire()
        except OSError as error:
            raise InputError(
                f"{self.path}: nothing can be written in this run directory: {error.strerror}."
            ) from error
        if not held:
            raise InputError(
                f"{self.path}: process {lock.holder} works in this run directory (training, `igpo import`, "
                "`igpo verify` or `igpo track`); wait for it or stop it."
            )
        try:
            yield
        finally:
            lock.release()


def metadata_in(folder: Path, run_id: str | None) -> dict[str, Any]:
    """The metadata of the run `run_id`, if `folder` is its directory, else none.

    Raises:
        InputError: as `RunDirectory.metadata`.
    """
    metadata = RunDirectory(folder).metadata if (folder / METADATA).is_file() else {}
    return metadata if metadata.get("run_id") == run_id else {}


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
        InputError: the file cannot be read, or is cut off or damaged. Its text ends with `remedy`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: this file cannot be read: {error.strerror}.") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise InputError(f"{path}: this file is damaged ({error}): {remedy}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: this file is damaged (it holds no JSON object): {remedy}.")
    return content


def _cannot_be_made(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: the run directory cannot be made: {error.strerror}.")


def _remove(path: Path) -> None:
    """Removes a run's folder, and that of its name if it was the only one."""
    shutil.rmtree(path)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def new_run_id() -> str:
    """Date, time and four random hexadecimal digits."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _json(metadata: dict[str, Any]) -> str:
    return json.dumps(masked_values(metadata), indent=2)


def _yaml(resolved: dict) -> str:
    return yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
