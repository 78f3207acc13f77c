"""A small training run in processes of its own, watched from outside: what it says and has on disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.kill_matrix.cells import CONFIGURATIONS, ITERATIONS, TINY

NAME = "kill"
PATIENCE = 600.0
"""Seconds that one command may take on a busy machine."""
POLL = 0.002


def write_experiment(folder: Path, configuration: str, env_config: Mapping[str, Any] | None = None) -> None:
    """Writes `kill.yaml` of a configuration into `folder`, whose runs go to `folder/runs`.

    `env_config` is laid over that of the configuration.
    """
    config = TINY | CONFIGURATIONS[configuration]
    experiment = {
        "run": "IGPO",
        "env": "search",
        "stop": {"training_iteration": ITERATIONS},
        "storage_path": str(folder / "runs"),
        "config": config | {"env_config": {**config["env_config"], **(env_config or {})}},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump({NAME: experiment}))


class Command:
    """`python -m WORDS` in `folder`, one thread a process."""

    def __init__(self, folder: Path, *words: str, environment: Mapping[str, str] | None = None):
        self.folder, self.output = folder, folder / f"said_{time.monotonic_ns()}.txt"
        own = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
        own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**own, **(environment or {})},
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.is_over:
            self.kill_everything()

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def wait_until(self, is_so: Callable[[], bool]) -> bool:
        """False where the command ended, or its patience, before `is_so`."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            if self.is_over or time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return True

    def end(self) -> int:
        """Its exit code. One that does not end is killed, and counts as killed."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            return self.process.wait()

    def processes(self, named: str = "") -> list[psutil.Process]:
        """The processes below the driver whose name or command line begins with `named`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                words = process.cmdline() or [process.name()]
            except psutil.Error:
                continue
            if Path(words[0]).name.startswith(named) or words[0].startswith(named):
                found.append(process)
        return found

    @property
    def last_words(self) -> str:
        """What it said of its end: the line of a failure, or its last line."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        failed = [
            line for line in lines if line.startswith(("the run failed", "stopped at once", "interrupted"))
        ]
        return (failed or lines or [""])[-1][:300]

    def kill_everything(self) -> None:
        for process in [psutil.Process(self.process.pid), *self.processes()]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def train(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Command:
    """`rllib train file kill.yaml` in `folder`."""
    words = ("pipeline.cli.rllib", "train", "file", f"{NAME}.yaml", "--ray-num-cpus", "4")
    return Command(folder, *words, *options, environment=environment)


def run_folder(folder: Path) -> Path | None:
    """The folder of the only run there; None before it is made."""
    found = [path.parent for path in folder.glob("runs/*/*/run.json")]
    return found[0] if found else None


def last_saved(run: Path) -> int:
    """The iteration of `checkpoints/last`; 0 before there is one."""
    link = run / "checkpoints/last"
    match = re.search(r"\d+$", os.readlink(link)) if os.path.lexists(link) else None
    return int(match[0]) if match else 0


def metadata(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())
