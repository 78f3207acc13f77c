"""Meets a phase of a run from outside: by what it prints, by the files that appear, and by seeded delays.

The product has no hooks for this. A phase inside an iteration is met by its place in time: the seconds that
it took in the run that was not interrupted, counted from the checkpoint before it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.kill_matrix.beside import Beside
from benchmarks.kill_matrix.cells import AROUND, ITERATIONS, Kill
from benchmarks.kill_matrix.run import Command, last_saved, run_folder

NAMES = {
    "gcs": "gcs_server",
    "raylet": "raylet",
    "env runner": "ray::IGPOEnvRunner",
    "learner": "ray::IGPOTorchLearner",
}
LOG_TABLES = ("iterations", "episodes", "turns", "groups", "tool_calls")


@dataclass
class Timings:
    """Seconds of the run that was not interrupted."""

    start: float
    evaluation: float
    sampling: float
    learning: float
    push: float
    checkpoint: float
    end: float


def wait_for_phase(
    kill: Kill, command: Command, timings: Timings, chance: random.Random, *, first: int
) -> str | None:
    """Waits until the run is in the phase of `kill`, at a random moment of it.

    Args:
        kill: names the phase.
        command: the run.
        timings: how long phases are.
        chance: decides the iteration and the moment.
        first: the iteration of the checkpoint that the run begins with.

    Returns:
        What was waited for, in words; None where the run ended before.
    """
    phase, folder = kill.cell.phase, command.folder

    def after(seconds: float, text: str) -> str | None:
        time.sleep(seconds)
        return f"{seconds:.3f} s after {text}"

    if phase in ("start", "evaluation"):
        text = {"start": "starting the policy", "evaluation": "held-out evaluation before"}[phase]
        if not command.wait_until(lambda: text in command.said):
            return None
        return after(chance.uniform(0, getattr(timings, phase)), f"`{text}`")
    at = first + (ITERATIONS if phase == "end" else chance.randint(1, ITERATIONS - 1))
    if not command.wait_until(lambda: (run := run_folder(folder)) is not None and last_saved(run) >= at):
        return None
    run = run_folder(folder)
    assert run is not None
    saved = f"checkpoint {at} was there"
    match phase:
        case "end":
            return after(chance.uniform(0, timings.end), saved)
        case "sampling":
            return after(chance.uniform(0, timings.sampling), saved)
        case "learning":
            return after(timings.sampling + chance.uniform(0, timings.learning), saved)
        case "push":
            before = timings.sampling + timings.learning
            return after(before + chance.uniform(0, timings.push), saved)
        case "commit":
            return after(chance.uniform(0, 0.02), saved)
        case "checkpoint":
            if not command.wait_until(lambda: any(run.glob("checkpoints/.iteration_*.tmp"))):
                return None
            return after(chance.uniform(0, timings.checkpoint), f"a checkpoint was begun, after {at}")
        case "log":
            if not command.wait_until(lambda: _is_writing(run)):
                return None
            return after(0.0, f"a file of the log was begun, after {at}")
    raise ValueError(phase)


def strike(kill: Kill, command: Command, beside: Beside, chance: random.Random) -> str | None:
    """Kills what the cell names. Returns what was killed; None if it was not there."""
    process = kill.cell.process
    if process in AROUND:
        beside.strike(process, chance)
        return process
    driver = psutil.Process(command.process.pid)
    match process:
        case "driver":
            driver.kill()
            return "driver"
        case "all":
            command.kill_everything()
            return "all"
        case "all, SIGTERM":
            for each in [driver, *command.processes()]:
                _send(each, signal.SIGTERM)
            return "SIGTERM to all"
        case "Ctrl-C twice":
            os.killpg(driver.pid, signal.SIGINT)
            time.sleep(chance.uniform(0.05, 0.5))
            if command.is_over:
                return "Ctrl-C once, it had ended by then"
            os.killpg(driver.pid, signal.SIGINT)
            return "Ctrl-C twice"
    found = command.processes(NAMES[process])
    if not found:
        return None
    _send(chance.choice(found), signal.SIGKILL)
    return process


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _is_writing(run: Path) -> bool:
    for table in LOG_TABLES:
        folder = run / "rollouts" / table
        if folder.is_dir() and any(name.endswith(".tmp") for name in os.listdir(folder)):
            return True
    return False
