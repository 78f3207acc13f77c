"""One kill of a training run: start it, kill, let it go on to its end, measure."""

from __future__ import annotations

import datetime
import random
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.kill_matrix.beside import Beside
from benchmarks.kill_matrix.cells import OTHER_COMMANDS, Kill
from benchmarks.kill_matrix.commands import try_command
from benchmarks.kill_matrix.measures import Reader, measure, state_on_disk
from benchmarks.kill_matrix.phases import strike, wait_for_phase
from benchmarks.kill_matrix.run import metadata, run_folder, train, write_experiment
from benchmarks.kill_matrix.uninterrupted import Say, first_iteration, options_of, uninterrupted
from pipeline.run_directory.provenance import git_commit

ATTEMPTS = 3
"""Commands with `--resume` after which a run counts as lost."""
FINISHED = "finished"


def try_kill(kill: Kill, out: Path, seed: int, say: Say) -> dict[str, Any]:
    """Makes the run of `kill`, and returns what happened, as JSON takes it.

    `say` gets a sentence where the run that it is compared with has to be made anew.
    """
    started, folder = time.monotonic(), folder_of(kill, out)
    shutil.rmtree(folder, ignore_errors=True)
    try_it = try_command if kill.cell.configuration in OTHER_COMMANDS else _try_run
    found = try_it(kill, out, folder, kill.chance(seed), say)
    return {
        "kill": kill.name,
        **asdict(kill.cell),
        "number": kill.number,
        "seed": seed,
        "commit": git_commit(),
        "when": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
        **found,
        "seconds": round(time.monotonic() - started, 1),
    }


def folder_of(kill: Kill, out: Path) -> Path:
    """Where the run of `kill` is, and stays if it was not as it should be."""
    return out / "killed" / kill.name.replace(" / ", "-").replace(" ", "_")


def _try_run(kill: Kill, out: Path, folder: Path, chance: random.Random, say: Say) -> dict[str, Any]:
    configuration = kill.cell.configuration
    reference, timings = uninterrupted(out, configuration, say)
    options = options_of(out, configuration, say)
    with Beside(folder, configuration) as beside:
        write_experiment(folder, configuration, beside.env_config)
        with Reader(folder) as reader, train(folder, *options, environment=beside.environment) as command:
            moment = wait_for_phase(kill, command, timings, chance, first=first_iteration(configuration))
            killed = strike(kill, command, beside, chance) if moment and not command.is_over else None
            struck = time.monotonic()
            if killed in ("driver", "all"):
                command.end()
                left = state_on_disk(run_folder(folder))
            else:
                left = state_on_disk(run_folder(folder))
                command.end()
            codes, seconds_to_end = [command.process.returncode], time.monotonic() - struck
            beside.relieve()
            while not _is_finished(folder) and len(codes) <= ATTEMPTS:
                begun = run_folder(folder) is not None
                again = [word for word in options if not word.startswith("--restore")] if begun else options
                if begun:
                    again = [*again, "--resume"]
                with train(folder, *again, environment=beside.environment) as another:
                    codes.append(another.end())
    run, is_finished = run_folder(folder), _is_finished(folder)
    measured = measure(run, reference) if is_finished and run is not None else {}
    return {
        "moment": moment,
        "killed": killed,
        "left": left,
        "codes": codes,
        "seconds_to_end": round(seconds_to_end, 1),
        "last_words": command.last_words,
        "lost": not is_finished,
        **measured,
        "reads": reader.reads,
        "reads_failed": reader.failed,
        "read_error": reader.error,
    }


def _is_finished(folder: Path) -> bool:
    run = run_folder(folder)
    return run is not None and metadata(run)["status"] == FINISHED
