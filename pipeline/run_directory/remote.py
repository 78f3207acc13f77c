"""Runs on another file system (S3, Google Cloud Storage): written on this machine, uploaded whole.

A run is written to a folder of this machine's cache and uploaded after each checkpoint and at its end. Files
go up in an order that makes every moment recoverable: checkpoints and Parquet files, then logs, then JSON,
and last `snapshot.json`, which says which checkpoint files are whole and where `last` and `best` point. Only
then are files removed that the run no longer has. A machine that resumes takes the checkpoints of the
snapshot, and the rest as it is: a log that is ahead of the checkpoint is what a killed run leaves anywhere.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from envs.cache_folder import cache_directory
from envs.durable import TEMPORARY, write_text
from envs.errors import InputError
from pipeline.rollout_log.folder import is_url, local_path
from pipeline.run_directory.directory import CONFIG, METADATA, RunDirectory
from pipeline.run_directory.object_store import ObjectStore, reason

logger = logging.getLogger(__name__)

SNAPSHOT = "snapshot.json"
STATE = ".uploaded.json"
"""File of a run's local folder: what was uploaded of it."""
PASSES = 3
"""Times that a run is looked at again for files that changed during the upload."""
LINKS = ("checkpoints/last", "checkpoints/best")


class UploadError(RuntimeError):
    """A run that could not be uploaded, and where it is."""


class TakenOverError(UploadError):
    """Another machine has gone on with the run."""


def places_of(storage_path: str) -> dict[str, Any]:
    """The folder of this machine where runs are written, and the URL to which they go (None: nowhere)."""
    if is_url(storage_path):
        return {"storage_path": local_mirror(storage_path), "remote": storage_path}
    return {"storage_path": local_path(storage_path), "remote": None}


def local_mirror(url: str) -> Path:
    """The folder of this machine where the runs of `url` are written."""
    parts = urlsplit(url)
    return cache_directory() / "runs" / parts.scheme / parts.netloc / parts.path.strip("/")


class RemoteRuns:
    """All runs below a URL, `NAME/RUN_ID` each.

    Raises:
        InputError: as `ObjectStore`.
    """

    def __init__(self, url: str):
        self.url = url
        self._store = ObjectStore(url)

    def check(self) -> None:
        """Writes, reads and removes a small file. Raises InputError where that fails."""
        self._store.check()

    def fetch(self, name: str) -> None:
        """Brings the runs of an experiment that another machine has taken further into the local mirror.

        Raises:
            InputError: a run is incomplete there, or reading failed again and again.
        """
        try:
            below = self._store.names(name)
            for path in sorted(path for path in below if path.endswith(f"/{SNAPSHOT}")):
                run_id = path.split("/")[-2]
                snapshot = json.loads(self._store.read(path))
                folder = local_mirror(self.url) / name / run_id
                if _state(folder).get("serial", 0) >= snapshot["serial"]:
                    continue
                logger.warning("fetching run %s/%s of %s ...", name, run_id, self.url)
                self._download(f"{name}/{run_id}", folder, snapshot, below)
        except OSError as error:
            raise InputError(
                f"{self.url}: the runs of {name} can't be fetched: {reason(error)}; try again"
            ) from error

    def upload(self, run: RunDirectory) -> None:
        """Uploads what is new of a run.

        Raises:
            UploadError: it failed again and again.
            TakenOverError: another machine has gone on with the run.
        """
        remote = f"{run.name}/{run.run_id}"
        state = _state(run.path)
        files = _files_of(run.path)
        try:
            serial = self._serial(remote)
            if serial != state.get("serial", 0):
                raise TakenOverError(
                    f"{self.url}: another machine has gone on with run {run.run_id} (it uploaded {serial} "
                    f"times, this one {state.get('serial', 0)}): stop one of them; this "
                    f"machine's is in {run.path}"
                )
            sent = dict(state.get("files", {}))
            for _ in range(PASSES):
                pending = [name for name in sorted(files, key=_rank) if sent.get(name) != files[name]]
                for name in pending:
                    if self._store.send(run.path / name, f"{remote}/{name}"):
                        sent[name] = files[name]
                if not pending:
                    break
                files = _files_of(run.path)  # the log may have been merged meanwhile
            kept = {name: sent[name] for name in files if name in sent}
            snapshot = {
                "serial": serial + 1,
                "checkpoints": {name: kept[name][0] for name in kept if _rank(name)[0] == 0},
                "links": {
                    link: os.readlink(run.path / link) for link in LINKS if (run.path / link).is_symlink()
                },
                "begun_ns": run.config_path.stat().st_mtime_ns,
            }
            self._store.write(f"{remote}/{SNAPSHOT}", json.dumps(snapshot, indent=1).encode())
            write_text(run.path / STATE, json.dumps({"serial": serial + 1, "files": kept}))
            for name in sent.keys() - kept.keys():
                self._store.remove(f"{remote}/{name}")
        except OSError as error:
            raise UploadError(
                f"run {run.run_id} can't be uploaded to {self.url} ({reason(error)}); it is whole in "
                f"{run.path}"
            ) from error

    def _serial(self, remote: str) -> int:
        """How often the run was uploaded, by whichever machine."""
        try:
            return int(json.loads(self._store.read(f"{remote}/{SNAPSHOT}"))["serial"])
        except FileNotFoundError:
            return 0

    def _download(self, remote: str, folder: Path, snapshot: dict[str, Any], below: list[str]) -> None:
        """Makes the folder what the snapshot says; files of checkpoints that are not in it stay away."""
        names = [path.removeprefix(f"{remote}/") for path in below if path.startswith(f"{remote}/")]
        wanted = [name for name in names if _rank(name)[0] or name in snapshot["checkpoints"]]
        for name in snapshot["checkpoints"].keys() - set(names):
            raise InputError(f"{self.url}: run {folder.name} is incomplete there: {name} is missing")
        for name in sorted((name for name in wanted if name != SNAPSHOT), key=_rank):
            self._store.receive(f"{remote}/{name}", folder / name)
        for part in ("checkpoints", "rollouts", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for link, target in snapshot["links"].items():
            (folder / link).unlink(missing_ok=True)
            (folder / link).symlink_to(target, target_is_directory=True)
        os.utime(folder / CONFIG, ns=(snapshot["begun_ns"],) * 2)
        files = _files_of(folder)
        for gone in files.keys() - set(wanted):
            (folder / gone).unlink()
        state = {
            "serial": snapshot["serial"],
            "files": {name: files[name] for name in wanted if name in files},
        }
        write_text(folder / STATE, json.dumps(state))


def _rank(name: str) -> tuple[int, str]:
    """Order of uploading: what never changes, then what grows, then what refers to it."""
    if name.startswith("checkpoints/"):
        return 0, name
    if name.endswith(".parquet"):
        return 1, name
    return (3 if name.endswith(".json") or name == METADATA else 2), name


def _files_of(folder: Path) -> dict[str, list[int]]:
    """Name -> [bytes, time of change] of each file to upload: not locks, temporaries and links."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.endswith(TEMPORARY)]
        for name in names:
            path = Path(parent, name)
            if name.endswith(TEMPORARY) or name in (".lock", STATE) or path.is_symlink():
                continue
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            found[path.relative_to(folder).as_posix()] = [facts.st_size, facts.st_mtime_ns]
    return found


def _state(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return {}
