"""The console scripts in processes of their own, as a person starts them."""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil


def _hears_ctrl_c() -> None:
    """Undoes what a shell does to tests in the background: they, and what they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command:
    """A command line in a process of its own, which says what it has printed so far."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        module: str = "pipeline.cli.rllib",
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ):
        self.output = folder / f"output_{time.monotonic_ns()}.txt"
        own = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module, *arguments],
                cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=_hears_ctrl_c,
                env=own | {"PYTHONPATH": str(Path(__file__).parents[2])} | (environment or {}),
            )  # fmt: skip
        atexit.register(self._kill)

    def _kill(self) -> None:
        """What a failed test has left behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def said(self) -> str:
        return " ".join(self.output.read_text().split())

    def wait_for(self, text: str, timeout: float = 240.0) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.said:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    @property
    def iterations(self) -> list[int]:
        """The training iterations whose line was printed."""
        return [int(number) for number in re.findall(r"iteration (\d+)/", self.said)]

    def wait_for_iteration(self, after: int = 0) -> None:
        """Until an iteration later than `after` was printed."""
        deadline = time.monotonic() + 240
        while max(self.iterations, default=0) <= after:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> int:
        """A signal to every process of the group (Ctrl-C as a terminal sends it); returns the exit code."""
        os.killpg(self.process.pid, number)
        return self.end()

    def end(self, timeout: float = 240.0) -> int:
        return self.process.wait(timeout)

    def descendants(self, name: str) -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if name in " ".join(child.cmdline())
        ]
