"""What stands around a run: servers (configuration `servers`), a disk (`small disk`), MLflow's store."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.kill_matrix.cells import TINY
from benchmarks.servers import Server, mlflow, retriever
from envs.world.config import WorldSettings

AWAY = 2.0, 10.0
"""Shortest and longest seconds for which a killed server is away, or a store locked."""
DISK_MIB = 256


class Beside:
    """What a configuration needs around its runs, there from entry to exit.

    `servers`: a retriever and an MLflow server, whose store is where a run without a server has it.
    `small disk`: the runs' folder is a file system of 256 MiB, mounted at entry, which takes root's rights.
    At exit what is on it stays behind in a plain folder.
    """

    def __init__(self, folder: Path, configuration: str):
        self._folder = folder / "runs"
        self._servers: dict[str, Server] = {}
        self._disk = SmallDisk(self._folder) if configuration == "small disk" else None
        if configuration == "servers":
            self._folder.mkdir(parents=True, exist_ok=True)
            world = WorldSettings(**TINY["env_config"]["world"])
            self._servers = {"retriever": retriever(self._folder, world), "MLflow": mlflow(self._folder)}

    def __enter__(self) -> Beside:
        try:
            for server in self._servers.values():
                server.start()
            if self._disk:
                self._disk.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self._servers.values():
            server.stop()
        if self._disk:
            self._disk.unmount()

    @property
    def env_config(self) -> dict[str, Any]:
        """What a run's `env_config` needs to ask the retriever."""
        if not self._servers:
            return {}
        url = f"http://127.0.0.1:{self._servers['retriever'].port}/retrieve"
        return {"retriever": {"kind": "http", "http": {"url": url, "retry_for": 50}}}

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a run's environment."""
        if not self._servers:
            return {}
        return {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self._servers['MLflow'].port}"}

    def strike(self, name: str, chance: random.Random) -> None:
        """Fills the disk; or kills a server or locks the store, and returns when it is there again."""
        if name == "full disk":
            assert self._disk is not None
            self._disk.fill()
        elif name == "locked store":
            with closing(sqlite3.connect(self._folder / "mlflow.db", timeout=AWAY[1])) as store:
                store.execute("BEGIN EXCLUSIVE")
                time.sleep(chance.uniform(*AWAY))
                store.rollback()
        else:
            server = self._servers[name]
            server.stop()
            time.sleep(chance.uniform(*AWAY))
            server.start()

    def relieve(self) -> None:
        """Makes room on a disk that was filled."""
        if self._disk:
            self._disk.relieve()


class SmallDisk:
    """A file system in memory, mounted at `folder`."""

    def __init__(self, folder: Path):
        self._folder, self._ballast = folder, folder / "ballast"

    def mount(self) -> None:
        """Raises PermissionError where the process may not mount."""
        self._folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "small_disk", str(self._folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PermissionError(f"configuration `small disk` mounts a file system: {done.stderr.strip()}")

    def unmount(self) -> None:
        """Leaves what is on it in a plain folder of the same name."""
        if not os.path.ismount(self._folder):
            return
        self.relieve()
        kept = self._folder.with_name("kept")
        shutil.copytree(self._folder, kept, symlinks=True)
        subprocess.run(["umount", str(self._folder)], check=True)
        self._folder.rmdir()
        kept.rename(self._folder)

    def fill(self) -> None:
        """Takes every free byte, also from a run that writes meanwhile."""
        with self._ballast.open("wb") as file:
            while (free := shutil.disk_usage(self._folder).free) > 0:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def relieve(self) -> None:
        self._ballast.unlink(missing_ok=True)
