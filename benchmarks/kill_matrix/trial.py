"""One kill: start a run, kill, let it go on to its end, measure. And the run without a kill, once."""

from __future__ import annotations

import datetime
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.kill_matrix.cells import ITERATIONS, Kill
from benchmarks.kill_matrix.code import code_digest
from benchmarks.kill_matrix.measures import Reader, measure, state_on_disk
from benchmarks.kill_matrix.phases import Timings, strike, wait_for_phase
from benchmarks.kill_matrix.run import Command, last_saved, metadata, run_folder, write_experiment
from pipeline.analysis import open_run
from pipeline.run_directory.provenance import git_commit

ATTEMPTS = 3
"""Commands with `--resume` after which a run counts as lost."""
TIMINGS = "timings.json"
FINISHED = "finished"


def uninterrupted(out: Path, configuration: str, say: Callable[[str], object]) -> tuple[Path, Timings]:
    """The run of a configuration without a kill, and its timings.

    Made where it is not there yet, or was made by other code: then `say` gets a sentence.
    """
    folder = out / "uninterrupted" / configuration.replace(" ", "_")
    digest = code_digest()
    if (folder / TIMINGS).is_file():
        kept = json.loads((folder / TIMINGS).read_text())
        run = run_folder(folder)
        if kept.get("code") == digest and run is not None:
            return run, Timings(**kept["timings"])
        say(
            f"the uninterrupted run of {configuration!r} was made by other code "
            f"(commit {kept.get('commit')}): it is made anew"
        )
    options = _options(out, configuration, say)
    shutil.rmtree(folder, ignore_errors=True)
    write_experiment(folder, configuration)
    seen, last = {}, last_iteration(configuration)

    def saved() -> bool:
        return (run := run_folder(folder)) is not None and last_saved(run) >= last

    with Command(folder, *options) as command:
        for name, is_so in (
            ("start", lambda: "starting the policy" in command.said),
            ("evaluation", lambda: "held-out evaluation before" in command.said),
            ("first", lambda: "held-out before training" in command.said),
            ("saved", saved),
        ):
            if not command.wait_until(is_so):
                raise RuntimeError(
                    f"the uninterrupted run ended before {name} was seen: {_last_words(command)}"
                )
            seen[name] = time.monotonic()
        code = command.end()
    ended = time.monotonic()
    run = run_folder(folder)
    if code or run is None:
        raise RuntimeError(f"the uninterrupted run failed ({command.output}): {_last_words(command)}")
    with open_run(run) as log:
        seconds = [
            row for (row,) in log.sql("SELECT seconds FROM iterations WHERE split = 'train'").fetchall()
        ]

    def median(*phases: str) -> float:
        return statistics.median(sum(row.get(phase, 0.0) for phase in phases) for row in seconds)

    timings = Timings(
        start=seen["evaluation"] - seen["start"],
        evaluation=seen["first"] - seen["evaluation"],
        sampling=median("sample"),
        learning=median("learn", "credit"),
        push=median("push"),
        checkpoint=max(median("log"), 0.02),
        end=ended - seen["saved"],
    )
    kept = {"code": digest, "commit": git_commit(), "timings": asdict(timings)}
    (folder / TIMINGS).write_text(json.dumps(kept))
    return run, timings


def try_kill(kill: Kill, out: Path, seed: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Makes the run of `kill`, and returns what happened, as JSON takes it.

    `say` gets a sentence where the run that it is compared with has to be made anew.
    """
    configuration = kill.cell.configuration
    reference, timings = uninterrupted(out, configuration, say)
    chance, started = kill.chance(seed), time.monotonic()
    folder = folder_of(kill, out)
    shutil.rmtree(folder, ignore_errors=True)
    write_experiment(folder, configuration)
    options = _options(out, configuration, say)
    with Reader(folder) as reader, Command(folder, *options) as command:
        moment = wait_for_phase(kill, command, timings, chance, first=first_iteration(configuration))
        killed = strike(kill, command, chance) if moment and not command.is_over else None
        struck = time.monotonic()
        if killed in ("driver", "all"):
            command.end()
            left = state_on_disk(run_folder(folder))
        else:
            left = state_on_disk(run_folder(folder))
            command.end()
        codes, seconds_to_end = [command.process.returncode], time.monotonic() - struck
        words = _last_words(command)
        while not _is_finished(folder) and len(codes) <= ATTEMPTS:
            begun = run_folder(folder) is not None
            again = [word for word in options if not word.startswith("--restore")] if begun else options
            with Command(folder, *again, *(["--resume"] if begun else [])) as another:
                codes.append(another.end())
    run, is_finished = run_folder(folder), _is_finished(folder)
    measured = measure(run, reference) if is_finished and run is not None else {}
    return {
        "kill": kill.name,
        **asdict(kill.cell),
        "number": kill.number,
        "seed": seed,
        "commit": git_commit(),
        "when": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
        "moment": moment,
        "killed": killed,
        "left": left,
        "codes": codes,
        "seconds_to_end": round(seconds_to_end, 1),
        "last_words": words,
        "lost": not is_finished,
        **measured,
        "reads": reader.reads,
        "reads_failed": reader.failed,
        "read_error": reader.error,
        "seconds": round(time.monotonic() - started, 1),
    }


def folder_of(kill: Kill, out: Path) -> Path:
    """Where the run of `kill` is, and stays if it was not as it should be."""
    return out / "killed" / kill.name.replace(" / ", "-").replace(" ", "_")


def first_iteration(configuration: str) -> int:
    """The iteration of the checkpoint that the configuration begins with; 0 without one."""
    return ITERATIONS if configuration == "restored" else 0


def last_iteration(configuration: str) -> int:
    return first_iteration(configuration) + ITERATIONS


def _options(out: Path, configuration: str, say: Callable[[str], object]) -> list[str]:
    if configuration != "restored":
        return []
    run, _ = uninterrupted(out, "synchronous", say)
    stop = json.dumps({"training_iteration": last_iteration(configuration)})
    return [f"--restore={(run / 'checkpoints/last').resolve()}", "--stop", stop]


def _is_finished(folder: Path) -> bool:
    run = run_folder(folder)
    return run is not None and metadata(run)["status"] == FINISHED


def _last_words(command: Command) -> str:
    """What the command said of its end: the line of a failure, or its last line."""
    lines = [line.strip() for line in command.said.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("the run failed", "stopped at once", "interrupted"))]
    return (failed or lines or [""])[-1][:300]
