"""Servers that die and come back beside a run: a retriever, and MLflow's, both on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from envs.world.config import WorldSettings
from envs.world.world import build_world

PATIENCE = 600.0
"""Seconds that a server may take to start on a busy machine."""


class Server:
    """A command that listens on a port of this machine. `stop` kills it; `start` starts it again."""

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        folder: Path,
        port: int,
        environment: Mapping[str, str] | None = None,
    ):
        self.name, self.port = name, port
        self._environment = {**os.environ, **(environment or {})}
        self._words, self._folder = [sys.executable, *words], folder
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Returns once `/health` answers. Raises RuntimeError where the command ends first."""
        with (self._folder / f"{self.name}.txt").open("a") as said:
            self._process = subprocess.Popen(
                self._words,
                cwd=self._folder,
                stdout=said,
                stderr=said,
                start_new_session=True,
                env=self._environment,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start: see {said.name}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # MLflow's server has workers of its own
            self._process.wait()
            self._process = None


def retriever(folder: Path, world: WorldSettings, port: int | None = None) -> Server:
    """`igpo serve-retriever` over the a world, which it writes into `folder`; `port` None: a free one."""
    corpus = folder / "world.jsonl"
    lines = [
        json.dumps({"id": document.id, "contents": f'"{document.title}"\n{document.text}'})
        for document in build_world(world).documents
    ]
    corpus.write_text("\n".join(lines) + "\n")
    port = port or _free_port()
    words = ["-m", "pipeline.cli.igpo", "serve-retriever", str(corpus), "--port", str(port)]
    return Server("retriever", words, folder, port)


def mlflow(folder: Path) -> Server:
    """MLflow's tracking server over `folder/mlflow.db`."""
    port = _free_port()
    places = [f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts")]
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", places[0], "--artifacts-destination", places[1]]  # fmt: skip
    # Its job runners, a dozen processes, have nothing to do here.
    return Server("mlflow", words, folder, port, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
