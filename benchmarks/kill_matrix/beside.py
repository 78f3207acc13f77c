"""The servers beside a run of configuration `servers`; beside any other run there are none."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from benchmarks.kill_matrix.cells import TINY
from benchmarks.servers import Server, mlflow, retriever
from envs.world.config import WorldSettings

AWAY = 2.0, 10.0
"""Shortest and longest seconds for which a killed server is away."""


class Servers:
    """Started on entry, killed on exit. The store of MLflow's is where a run without a server has it."""

    def __init__(self, folder: Path, configuration: str):
        self._folder = folder / "runs"
        self._by_name: dict[str, Server] = {}
        if configuration == "servers":
            self._folder.mkdir(parents=True, exist_ok=True)
            world = WorldSettings(**TINY["env_config"]["world"])
            self._by_name = {"retriever": retriever(self._folder, world), "MLflow": mlflow(self._folder)}

    def __enter__(self) -> Servers:
        try:
            for server in self._by_name.values():
                server.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self._by_name.values():
            server.stop()

    @property
    def env_config(self) -> dict[str, Any]:
        """What a run's `env_config` needs to ask the retriever."""
        if not self._by_name:
            return {}
        url = f"http://127.0.0.1:{self._by_name['retriever'].port}/retrieve"
        return {"retriever": {"kind": "http", "http": {"url": url, "retry_for": 50}}}

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a run's environment."""
        if not self._by_name:
            return {}
        return {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self._by_name['MLflow'].port}"}

    def strike(self, name: str, chance: random.Random) -> None:
        """Kills a server, and returns when it is there again."""
        server = self._by_name[name]
        server.stop()
        time.sleep(chance.uniform(*AWAY))
        server.start()
