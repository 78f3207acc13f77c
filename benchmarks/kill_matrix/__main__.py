"""Kills processes of small training runs at seeded random moments, and counts what was lost or doubled.

    python -m benchmarks.kill_matrix --list                # the cells: process, phase, configuration
    python -m benchmarks.kill_matrix --quick               # ten kills, about ten minutes on an idle machine
    python -m benchmarks.kill_matrix                       # all cells, each several times: hours
    python -m benchmarks.kill_matrix --minutes 30          # as many as begin in half an hour
    python -m benchmarks.kill_matrix --table               # what is known so far, as Markdown

Each kill is a run of its own with the embedded policy, one thread a process. It is compared with a run of
the same configuration that nobody killed: every value of the log that does not depend on time, and every
tensor of the last checkpoint. That run is made anew where the code has changed since. A reader asks the log
of the run under way twice a second. Results are appended to OUT/results.jsonl; the same command goes on with
the kills that are not there yet. Ctrl-C stops. The exit code is 0 where every kill that was asked for is made
and nothing was lost; `--minutes`, and cells that this machine cannot run, excuse what is not made.

`igpo study` and `igpo warm-start` are killed at any moment; the same command again has to come to the same
tables and tensors. The cells of a full disk mount a small file system, which takes root's rights; without
them they are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.kill_matrix.cells import (
    LAST_DIGITS,
    PHASES,
    PROCESSES,
    Kill,
    all_cells,
    kills_of,
    quick_cells,
)
from benchmarks.kill_matrix.table import table
from benchmarks.kill_matrix.trial import folder_of, try_kill

RESULTS = "results.jsonl"


def load(out: Path) -> list[dict[str, Any]]:
    """The results so far. A last line that was cut off by a kill is dropped."""
    file = out / RESULTS
    results = []
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


def append(out: Path, result: dict[str, Any]) -> None:
    """Adds a result, on a line of its own also after one that was cut off."""
    with (out / RESULTS).open("a+") as file:
        file.seek(0)
        text = file.read()
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(result) + "\n")


def is_good(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or different."""
    names = ("prompts_skipped", "prompts_repeated", "rows_doubled", "metrics_doubled", "metrics_missing")
    exact = () if result["configuration"] in LAST_DIGITS else ("values_different", "tensors_different")
    zero = (*names, *exact, "reads_failed")
    return not result["lost"] and not any(result.get(name) for name in zero)


def run(kills: list[Kill], args: argparse.Namespace) -> int:
    """Makes the kills that are missing; returns the exit code."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    args.out.mkdir(parents=True, exist_ok=True)
    known = {result["kill"]: result for result in load(args.out) if result["seed"] == args.seed}
    missing = [kill for kill in kills if kill.name not in known]
    named = TextColumn("{task.description}", markup=False)
    columns = (named, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started, excused = time.monotonic(), 0
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        say = partial(progress.console.print, markup=False)
        task = progress.add_task("", total=len(kills), completed=len(kills) - len(missing))
        for place, kill in enumerate(missing):
            if args.minutes is not None and time.monotonic() - started > 60 * args.minutes:
                excused += len(missing) - place
                break
            progress.update(task, description=kill.name)
            try:
                result = try_kill(kill, args.out, args.seed, say)
            except PermissionError as error:
                say(f"left out: {kill.name}: {error}")
                excused += 1
                continue
            if result["killed"] is None:  # the run had ended, or never started: tried again next time
                say(f"nothing killed: {kill.name}: {result['last_words']}")
                continue
            known[kill.name] = result
            append(args.out, result)
            word = "ok" if is_good(result) else f"NOT OK, kept in {folder_of(kill, args.out)}"
            if is_good(result):
                shutil.rmtree(folder_of(kill, args.out), ignore_errors=True)
            say(
                f"{word}: {kill.name}: {result['moment']}; exit codes {result['codes']}; "
                f"{result.get('iterations_repeated')} repeated; {result['seconds']:.0f} s"
            )
            progress.advance(task)
    made = [known[kill.name] for kill in kills if kill.name in known]
    bad = [result["kill"] for result in made if not is_good(result)]
    print(f"{len(made)} of {len(kills)} kills, {len(bad)} not ok{': ' if bad else ''}{', '.join(bad)}")
    return exit_code(len(kills), len(made), len(bad), excused)


def exit_code(wanted: int, made: int, bad: int, excused: int) -> int:
    """0 where no kill was bad, none is missing without an excuse, and at least one was made."""
    return 0 if made and not bad and made + excused == wanted else 1


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill_matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/kill_matrix"), help="folder of the results")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="kills of each cell; default 3")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--only", metavar="TEXT", default="", help="only cells whose name contains this")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no kill after this")
    parser.add_argument("--quick", action="store_true", help="ten cells, each killed once")
    parser.add_argument("--list", action="store_true", help="print the cells and end")
    parser.add_argument("--table", action="store_true", help="print the results so far as Markdown and end")
    args = parser.parse_args()
    cells = [cell for cell in (quick_cells() if args.quick else all_cells()) if args.only in cell.name]
    kills = kills_of(cells, 1 if args.quick else args.kills)
    if args.table:
        print(table(load(args.out)))
        return
    if args.list:
        for cell in cells:
            print(f"{cell.name}: {PROCESSES[cell.process]}; {PHASES[cell.phase]}")
        print(f"{len(cells)} cells, {len(kills)} kills")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no run is left behind
    try:
        sys.exit(run(kills, args))
    except KeyboardInterrupt:
        print("stopped: the same command goes on")
        sys.exit(130)


if __name__ == "__main__":
    main()
