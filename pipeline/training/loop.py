"""The loop of `rllib train file`: train, checkpoint, show progress, and end cleanly however it ends.

The algorithm's `RunLogger` writes the rows. The order within an iteration makes every crash recoverable: the
rollout log is on disk before the checkpoint that contains the iteration counts as saved, and the tracker
commits last. The next attempt supersedes whatever a dead one did beyond its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from algorithms.igpo.iteration_record import IterationRecord
from pipeline.evaluation.heldout_scores import Scores, load_scores, save_scores, scores_of
from pipeline.evaluation.selection import COMPARED, SELECTION, Selection
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.run_directory.directory import HELDOUT_BEFORE, HELDOUT_LAST
from pipeline.training.interrupts import Interrupts
from pipeline.training.run_logger import HELDOUT, RunLogger

if TYPE_CHECKING:
    from envs.search.trajectory import Rollout
    from pipeline.experiment.experiment import CheckpointSettings
    from pipeline.run_directory.directory import RunDirectory
    from pipeline.training.progress import Progress

BEST_METRIC = "em_squad"
SLOW_SAVING = 0.2
"""Share of an iteration's seconds above which its checkpoint is worth a word; one of less than a second is
not.
"""


class Trainable(Protocol):
    """The part of `IGPO` that the loop uses."""

    iteration: int
    records: list[IterationRecord]

    def train(self) -> dict[str, Any]: ...
    def evaluate(self) -> dict[str, Any]: ...
    def save_to_path(self, path: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    how: str
    """`finished`, or `interrupted` by the user."""
    reason: str
    iteration: int
    before: Scores | None = None
    """Held-out scores before training."""
    after: Scores | None = None
    question: str | None = None
    """One of the questions, as an example for `igpo ask`."""


@dataclass
class TrainingLoop:
    """Trains `algorithm` in the directory of `run` until a stop criterion, the time budget, or Ctrl-C.

    `run_logger` must be among the algorithm's callbacks. `evaluate`: held-out evaluation before and after
    training, besides those that the algorithm's own interval makes.
    """

    algorithm: Trainable
    run: RunDirectory
    run_logger: RunLogger
    progress: Progress
    stop: Mapping[str, float]
    checkpoint: CheckpointSettings
    evaluate: bool = True
    time_budget_s: float | None = None
    after_saving: Callable[[], object] = lambda: None
    """Called when a checkpoint is saved."""

    def __post_init__(self):
        self._checkpoints = Checkpoints(
            self.run.checkpoints, self.checkpoint.num_to_keep, self.run.config_path
        )
        self._best_score = self._score_to_beat()
        self._before = load_scores(self.run.path / HELDOUT_BEFORE)
        last = load_scores(self.run.path / HELDOUT_LAST)
        # Scores beyond the checkpoint are of a dead attempt, and superseded as its log rows are.
        self._told_slow_saving = False
        self._compared = [i for i in self.run.metadata.get(COMPARED, ()) if i <= self.algorithm.iteration]
        self._after = last if last and last[0] <= self.algorithm.iteration else None

    def _score_to_beat(self) -> float | None:
        """The score of `best`, if it is not of a dead attempt beyond the checkpoint."""
        best = self._checkpoints.best
        if best is None:
            return None
        note = read_note(best)
        return note.get("best_score") if note["iteration"] <= self.algorithm.iteration else None

    def run_to_end(self) -> Ending:
        """Trains until a criterion of `stop` is met or an interrupt comes.

        A second Ctrl-C raises KeyboardInterrupt; the run can be resumed from its last checkpoint.
        """
        started = time.monotonic()
        with Interrupts(self._on_interrupt) as interrupts:
            if self.evaluate and self._before is None:
                self._evaluate_before()
            self.progress.starting(self.algorithm.iteration)
            reason = self._reason({"training_iteration": self.algorithm.iteration}, started)
            while not (interrupts.requested or reason):
                result = self.algorithm.train()
                reason = self._reason(result, started)
                if reason and self.evaluate and not result.get("evaluation") and not interrupts.requested:
                    result["evaluation"] = self._heldout("after")
                self._finish_iteration(result, is_last=reason is not None)
            if interrupts.requested and self.algorithm.iteration > 0:
                self._save(best=False)
                self.run_logger.tracker.commit(self.algorithm.iteration)
            elif reason:
                self._evaluate_after()
        how, why = (
            ("interrupted", interrupts.requested) if interrupts.requested else ("finished", reason or "")
        )
        before, after = (kept[1] if kept else None for kept in (self._before, self._after))
        questions = (
            rollout.question.text for record in self.algorithm.records for rollout in record.rollouts
        )
        return Ending(how, why, self.algorithm.iteration, before, after, next(questions, None))

    def _reason(self, result: Mapping[str, Any], started: float) -> str | None:
        if reason := reached(self.stop, result):
            return reason
        if self.time_budget_s is not None and time.monotonic() - started >= self.time_budget_s:
            return f"the time budget of {self.time_budget_s:g} s is spent"
        return None

    def _finish_iteration(self, result: dict[str, Any], *, is_last: bool) -> None:
        """Does everything after `train()`, in the order that makes a crash at any point recoverable."""
        started, iteration = time.perf_counter(), self.algorithm.iteration
        scores = result.get("evaluation")
        self.progress.iteration(iteration, result["igpo"])
        for sign in self.run_logger.signs:
            self.progress.message(f"iteration {iteration}, {sign.text}", style="yellow")
        is_best = self._note_evaluation(iteration, scores) if scores else False
        frequency = self.checkpoint.checkpoint_frequency
        if (
            is_best
            or (frequency and iteration % frequency == 0)
            or (is_last and self.checkpoint.checkpoint_at_end)
        ):
            saving = time.perf_counter()
            self._save(best=is_best)
            self._watch_saving(time.perf_counter() - saving, result["igpo"].get("seconds_total", 0.0))
            self.run_logger.tracker.commit(iteration)
        elif is_last:
            self.run_logger.tracker.commit(iteration)
        self.run.note(iteration=iteration)
        self.run_logger.seconds += time.perf_counter() - started

    def _watch_saving(self, saved: float, trained: float) -> None:
        """Says once how to save less often, where checkpoints take much of the time."""
        if saved < 1 or saved < SLOW_SAVING * trained or self._told_slow_saving:
            return
        self._told_slow_saving = True
        self.progress.message(
            f"the checkpoint took {saved:.1f} s beside {trained:.1f} s of training: with "
            "checkpoint_config.checkpoint_frequency: 5 every fifth iteration is saved, and a run that is "
            "killed loses up to five"
        )

    def _heldout(self, when: str) -> dict[str, float]:
        self.progress.busy(f"held-out evaluation {when} training ...")
        return self.algorithm.evaluate()

    def _evaluate_before(self) -> None:
        iteration, scores = self.algorithm.iteration, self._heldout("before")
        self._before = self._keep(HELDOUT_BEFORE, iteration)
        self.run_logger.tracker.commit(iteration)
        self.progress.evaluation("before training", scores)

    def _evaluate_after(self) -> None:
        """For a run that had nothing left to train, or was interrupted where it now ends."""
        iteration = self.algorithm.iteration
        if not self.evaluate or any(kept and kept[0] == iteration for kept in (self._before, self._after)):
            return
        if self._note_evaluation(iteration, self._heldout("after")):
            self._save(best=True)
        self.run_logger.tracker.commit(iteration)

    def _note_evaluation(self, iteration: int, scores: Mapping[str, float]) -> bool:
        """Keeps and shows held-out scores; True where they are the best so far."""
        self._after = self._keep(HELDOUT_LAST, iteration)
        self._compared.append(iteration)
        self.run.note(**{COMPARED: self._compared})
        is_best = self._best_score is None or scores[BEST_METRIC] > self._best_score
        if is_best:
            self._best_score = scores[BEST_METRIC]
        self.progress.evaluation(f"after iteration {iteration}", scores, best=is_best)
        return is_best

    def _keep(self, name: str, iteration: int) -> tuple[int, Scores]:
        """Keeps the scores of the newest held-out rollouts in the run's file `name`, once their rows are on
        disk.
        """
        self.run_logger.log.flush()
        scores = scores_of(self._newest_heldout())
        save_scores(self.run.path / name, iteration, scores)
        return iteration, scores

    def _newest_heldout(self) -> list[Rollout]:
        return next(r.rollouts for r in reversed(self.algorithm.records) if r.split == HELDOUT)

    def _save(self, *, best: bool) -> None:
        metadata = self.run.metadata
        note = {
            "run_id": metadata["run_id"],
            "attempt": len(metadata["attempts"]),
            "best_score": self._best_score,
        }
        if best:
            questions = (rollout.question for rollout in self._newest_heldout())
            note[SELECTION] = Selection.of(questions, BEST_METRIC, self._compared).note()
        self._checkpoints.save(
            self.algorithm,
            self.algorithm.iteration,
            note,
            best=best,
            before_it_counts=self.run_logger.log.flush,
        )
        self.after_saving()

    def _on_interrupt(self, name: str) -> None:
        self.progress.message(
            f"{name}: finishing this iteration and saving a checkpoint; once more stops at once",
            style="yellow",
        )


def reached(stop: Mapping[str, float], result: Mapping[str, Any]) -> str | None:
    """Returns the first criterion of `stop` that `result` meets, in words; None if it meets none.

    Args:
        stop: metric to bound; a criterion is met where metric >= bound. `/` separates the keys of nested
            metrics.
        result: what `train()` returned. A metric that it lacks (no evaluation this time) meets nothing.
    """
    for name, bound in stop.items():
        value: Any = result
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value >= bound:
            return f"{name} reached {value:.6g} (stop at {bound:g})"
    return None
