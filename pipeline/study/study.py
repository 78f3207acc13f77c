"""Runs a study: tunes learning rates, then runs the missing cells of the plan."""

from __future__ import annotations

import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from envs.errors import InputError
from pipeline.doctor.checks import cheap_checks
from pipeline.doctor.findings import Subject
from pipeline.experiment.experiment import Experiment
from pipeline.ray_address import knock
from pipeline.study.plan import Cell, Plan
from pipeline.study.rates import best_rates, rate_in_words, with_rate
from pipeline.study.runner import CellRunner
from pipeline.study.store import FinishedCell, Store
from pipeline.terminal import Console
from pipeline.training.interrupts import Interrupts
from pipeline.training.launch import LaunchOptions
from pipeline.training.ray_processes.cluster import starting_ray
from pipeline.training.ray_processes.watch import watched_ray

SECONDS_BETWEEN_LOOKS = 5.0


def run_study(plan: Plan, folder: Path, options: LaunchOptions, console: Console) -> list[FinishedCell]:
    """Runs the missing cells of a study.

    A finished cell is stored at once, so a stopped study continues with the first missing one. Several
    processes may run the same study in the same folder; one of them runs each cell.

    Args:
        plan: the study.
        folder: where finished cells are stored.
        options: how Ray is started.
        console: shows the progress.

    Returns:
        Every finished cell, tuning cells first.

    Raises:
        InputError: a method's file or settings are wrong; raised before anything runs.
        KeyboardInterrupt: Ctrl-C or SIGTERM: once, after the cell under way; twice, at once.
        RayLostError: the Ray that was started is gone.
    """
    store = Store(folder)
    tuning = list(plan.tuning_cells())
    joins_cluster = options.ray.cluster is not None
    if options.ray.cluster:
        knock(options.ray.cluster)
    import algorithms.igpo.algorithm  # noqa: F401 (it writes into a registry that Ray's start reads)

    with watched_ray(words="stopped: {}; finished cells are kept: the same command goes on"):
        with starting_ray(options.ray, options.verbosity):
            for cell in {(cell.method, cell.difficulty): cell for cell in [*tuning, *plan.cells()]}.values():
                _check(cell.experiment(plan), cell.name, joins_cluster=joins_cluster)
        with Interrupts(lambda name: _say_stopping(name, console)) as interrupts, CellRunner(plan) as runner:
            tuned = _run_missing(plan, tuning, store, runner, console, "tuning", interrupts)
            rates = best_rates(tuned)
            cells = [with_rate(cell, rates) for cell in plan.cells()]
            return tuned + _run_missing(plan, cells, store, runner, console, "cells", interrupts)


def _say_stopping(name: str, console: Console) -> None:
    console.print(
        f"{name}: finishing this cell, whose scores are kept; once more stops at once and drops the cell",
        style="yellow",
    )


def finished_cells(plan: Plan, folder: Path) -> tuple[list[FinishedCell], int]:
    """Loads the finished cells, tuning cells first, and counts the missing ones. Runs nothing."""
    store = Store(folder)
    tuning = list(plan.tuning_cells())
    tuned = [found for cell in tuning if (found := store.load(cell, cell.fingerprint(plan)))]
    cells = [with_rate(cell, best_rates(tuned)) for cell in plan.cells()]
    found = tuned + [found for cell in cells if (found := store.load(cell, cell.fingerprint(plan)))]
    return found, len(tuning) + len(cells) - len(found)


def _check(experiment: Experiment, name: str, *, joins_cluster: bool) -> None:
    """Raises InputError for a failed check; a cluster may have the memory that this machine lacks."""
    for finding in cheap_checks(Subject(experiment, experiment.algorithm_config())):
        if finding.status == "fail" and not (joins_cluster and finding.name == "memory"):
            raise InputError(f"{name}: {finding.message}")


def _run_missing(
    plan: Plan,
    cells: list[Cell],
    store: Store,
    runner: CellRunner,
    console: Console,
    what: str,
    interrupts: Interrupts,
) -> list[FinishedCell]:
    """Runs the cells that are not finished, and loads all.

    Raises:
        KeyboardInterrupt: an interrupt came, and the cell under way is finished.
    """
    fingerprints = {cell: cell.fingerprint(plan) for cell in cells}
    missing = [cell for cell in cells if store.load(cell, fingerprints[cell]) is None]
    for cell in missing:
        if store.is_stale(cell, fingerprints[cell]):
            console.print(f"{cell.name} was made with another configuration: it is run again", style="yellow")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        whole = bars.add_task(what, total=len(cells))
        while missing := [cell for cell in missing if store.load(cell, fingerprints[cell]) is None]:
            bars.update(whole, completed=len(cells) - len(missing))
            ran = False
            for cell in missing:
                if interrupts.requested:
                    raise KeyboardInterrupt
                ran |= _run_if_free(cell, fingerprints[cell], store, runner, bars)
            if not ran:
                time.sleep(SECONDS_BETWEEN_LOOKS)  # other processes run the cells that are left
        bars.update(whole, completed=len(cells))
    return [found for cell in cells if (found := store.load(cell, fingerprints[cell]))]


def _run_if_free(cell: Cell, fingerprint: str, store: Store, runner: CellRunner, bars: Progress) -> bool:
    """Runs and stores the cell, unless another process runs or has finished it.

    Returns:
        Whether this process ran it.
    """
    with store.claim(cell) as claimed:
        if not claimed or store.load(cell, fingerprint):
            return False
        current = bars.add_task(f"  {cell.name}", total=cell.budget_tokens)

        def show(tokens: int, row: dict) -> None:
            bars.update(
                current, completed=tokens, description=f"  {cell.name}  {row['split']} EM {row['em']:.3f}"
            )

        rows, rate = runner.run(cell, show)
        store.save(cell, fingerprint, rate, rows)
        bars.remove_task(current)
        bars.advance(bars.task_ids[0])
        last = next(row for row in reversed(rows) if row["split"] == "heldout")
        line = f"{cell.name}  lr {rate_in_words(rate)}  held-out EM {rows[0]['em']:.3f} -> {last['em']:.3f}"
        bars.console.print(line)
    return True
