"""The run that nobody kills, of each configuration: what killed ones are compared with, and its timings."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.kill_matrix.beside import Beside
from benchmarks.kill_matrix.cells import ITERATIONS
from benchmarks.kill_matrix.code import code_digest
from benchmarks.kill_matrix.phases import Timings
from benchmarks.kill_matrix.run import Command, last_saved, run_folder, train, write_experiment
from pipeline.analysis import open_run
from pipeline.run_directory.provenance import git_commit

TIMINGS = "timings.json"
Say = Callable[[str], object]


def uninterrupted(out: Path, configuration: str, say: Say) -> tuple[Path, Timings]:
    """The run of a configuration without a kill, and its timings.

    Made where it is not there yet, or was made by other code: then `say` gets a sentence.
    """
    folder = out / "uninterrupted" / configuration.replace(" ", "_")
    kept = kept_timings(folder, configuration, say)
    if kept is not None and (run := run_folder(folder)) is not None:
        return run, Timings(**kept)
    options = options_of(out, configuration, say)
    shutil.rmtree(folder, ignore_errors=True)
    with Beside(folder, configuration) as beside:
        write_experiment(folder, configuration, beside.env_config)
        with train(folder, *options, environment=beside.environment) as command:
            seen = _watch(command, last_iteration(configuration))
    run = run_folder(folder)
    if command.process.returncode or run is None:
        raise RuntimeError(f"the uninterrupted run failed ({command.output}): {command.last_words}")
    timings = _timings(run, seen)
    keep_timings(folder, asdict(timings))
    return run, timings


def kept_timings(folder: Path, configuration: str, say: Say) -> dict[str, float] | None:
    """What `keep_timings` kept in `folder`; None where nothing is there, or other code made it."""
    file = folder / TIMINGS
    if not file.is_file():
        return None
    kept = json.loads(file.read_text())
    if kept.get("code") == code_digest():
        return kept["timings"]
    say(
        f"the uninterrupted run of {configuration!r} was made by other code "
        f"(commit {kept.get('commit')}): it is made anew"
    )
    return None


def keep_timings(folder: Path, timings: dict[str, float]) -> None:
    """Keeps them with the code that made the run."""
    kept = {"code": code_digest(), "commit": git_commit(), "timings": timings}
    (folder / TIMINGS).write_text(json.dumps(kept))


def first_iteration(configuration: str) -> int:
    """The iteration of the checkpoint that the configuration begins with; 0 without one."""
    return ITERATIONS if configuration == "restored" else 0


def last_iteration(configuration: str) -> int:
    return first_iteration(configuration) + ITERATIONS


def options_of(out: Path, configuration: str, say: Say) -> list[str]:
    """Options of `rllib train file` that a configuration needs."""
    if configuration != "restored":
        return []
    run, _ = uninterrupted(out, "synchronous", say)
    stop = json.dumps({"training_iteration": last_iteration(configuration)})
    return [f"--restore={(run / 'checkpoints/last').resolve()}", "--stop", stop]


def _watch(command: Command, last: int) -> dict[str, float]:
    """Waits for the end of a run; returns when each thing was seen."""
    seen: dict[str, float] = {}

    def saved() -> bool:
        return (run := run_folder(command.folder)) is not None and last_saved(run) >= last

    for name, is_so in (
        ("start", lambda: "starting the policy" in command.said),
        ("evaluation", lambda: "held-out evaluation before" in command.said),
        ("first", lambda: "held-out before training" in command.said),
        ("saved", saved),
    ):
        if not command.wait_until(is_so):
            raise RuntimeError(f"the uninterrupted run ended before {name} was seen: {command.last_words}")
        seen[name] = time.monotonic()
    command.end()
    return seen | {"end": time.monotonic()}


def _timings(run: Path, seen: dict[str, float]) -> Timings:
    with open_run(run) as log:
        rows = log.sql("SELECT seconds FROM iterations WHERE split = 'train'").fetchall()

    def median(*phases: str) -> float:
        return statistics.median(sum(row.get(phase, 0.0) for phase in phases) for (row,) in rows)

    return Timings(
        start=seen["evaluation"] - seen["start"],
        evaluation=seen["first"] - seen["evaluation"],
        sampling=median("sample"),
        learning=median("learn", "credit"),
        push=median("push"),
        checkpoint=max(median("log"), 0.02),
        end=seen["end"] - seen["saved"],
    )
