"""Runs iterations of a run again, from a checkpoint that is kept, and compares them with its log.

Sampling seeds derive from (seed, iteration, prompt, rollout, turn), and a checkpoint holds all else that an
iteration depends on. So the same code on the same kind of machine computes the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.analysis import open_run
from pipeline.analysis.collapse_watch import logged_metrics
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.training.build import build_algorithm, is_of_another
from pipeline.training.ray_processes.watch import lost_ray
from pipeline.training.run_logger import HELDOUT, RunLogger
from pipeline.verification.same_rows import Sameness, compare
from pipeline.verification.same_weights import compare_weights
from pipeline.verification.starting_points import Rerun

if TYPE_CHECKING:
    from algorithms.igpo.iteration_record import IterationRecord


@dataclass(frozen=True)
class Verdict:
    """What a rerun found."""

    rows: Sameness
    weights: tuple[int, int] | None
    """(tensors, those that differ); None: no checkpoint of that iteration is kept."""

    @property
    def is_equal(self) -> bool:
        return self.rows.is_equal and not (self.weights and self.weights[1])


def rerun(found: Rerun, folder: Path, say: Callable[[str], object]) -> Verdict:
    """Runs the iterations again and compares them.

    Args:
        found: what to run.
        folder: an empty folder for the rerun's own log and weights.
        say: called with what is being done.
    """
    run, config = found.run, found.plan.config
    say("starting the policy and the rollout engine ...")
    with open_run(run.path) as log:
        history = logged_metrics(log, found.start)
    algorithm = build_algorithm(
        config, folder, found.checkpoint, begins_run=is_of_another(run, found.checkpoint)
    )
    try:
        with RolloutLogWriter(folder / "rollouts", run.run_id, 1, info=RunInfo()) as log:
            algorithm.callbacks.append(RunLogger(log, _Untracked(), folder, history=history))
            done: set[tuple[int, str]] = set()
            for iteration in range(found.start, found.last + 1):
                say(f"iteration {iteration} of {found.last} again ...")
                if iteration > found.start:
                    algorithm.train()
                    done |= {(record.iteration, record.split) for record in algorithm.records}
                if (iteration > found.start or found.begins) and (iteration, HELDOUT) in found.logged - done:
                    algorithm.evaluate()
                    done.add((iteration, HELDOUT))
        weights = None
        if found.kept_weights is not None:
            algorithm.export_hf(folder / "hf")
            weights = compare_weights(found.kept_weights, folder / "hf")
    finally:
        if lost_ray() is None:
            algorithm.stop()
    say("comparing ...")
    with open_run(run.path) as before, open_run(folder / "rollouts") as now:
        return Verdict(compare(before, now, done), weights)


class _Untracked:
    """A tracker that keeps nothing."""

    def log_iteration(self, iteration: int, result: Mapping[str, Any]) -> None:
        pass

    def log_rollouts(self, record: IterationRecord) -> None:
        pass

    def commit(self, iteration: int) -> None:
        pass
