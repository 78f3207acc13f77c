"""The loop that a person's run is: train, log, checkpoint, track, say so; end cleanly however it ends.

The order within an iteration makes every crash recoverable: the rollout log is on disk before the checkpoint
that builds on it counts as saved, and the tracker commits last. What a dead attempt did beyond its checkpoint
is superseded by the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rich.markup import escape

from algorithms.igpo.iteration_record import IterationRecord
from pipeline.evaluation.intervals import Scores, load_scores, save_scores, scores_of
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.training.interrupts import Interrupts

if TYPE_CHECKING:
    from pipeline.experiment.experiment import CheckpointSettings
    from pipeline.run_directory.directory import RunDirectory
    from pipeline.training.progress import Progress

BEST_METRIC = "em_squad"
HELDOUT = "heldout"
HELDOUT_BEFORE = "heldout_before.json"
HELDOUT_LAST = "heldout_last.json"
"""Files of a run's directory with its held-out scores question by question, so that a resumed run need not
ask again."""


class Trainable(Protocol):
    """What the loop needs of an algorithm (RLlib's `Algorithm` with `records`)."""

    iteration: int
    records: list[IterationRecord]

    def train(self) -> dict[str, Any]: ...
    def evaluate(self) -> dict[str, Any]: ...
    def save_to_path(self, path: str) -> object: ...


class RolloutLog(Protocol):
    def write(self, record: IterationRecord, metrics: Mapping[str, float] | None = None) -> None: ...
    def flush(self) -> None: ...


class Tracker(Protocol):
    def log_iteration(self, iteration: int, result: Mapping[str, Any]) -> None: ...
    def log_rollouts(self, record: IterationRecord) -> None: ...
    def commit(self, iteration: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: `finished`, or `interrupted` by the user; why, after which iteration, and the held-out
    scores.
    """

    how: str
    reason: str
    iteration: int
    before: Scores | None = None
    after: Scores | None = None
    question: str | None = None
    """One of the questions, as an example of what may be asked."""


@dataclass
class TrainingLoop:
    """Trains `algorithm` in the directory of `run` until a stop criterion, the time budget, or Ctrl-C.

    `evaluate`: held-out evaluation before training, after it, and whenever the algorithm's own interval makes
    one.
    """

    algorithm: Trainable
    run: RunDirectory
    log: RolloutLog
    tracker: Tracker
    progress: Progress
    stop: Mapping[str, float]
    checkpoint: CheckpointSettings
    evaluate: bool = True
    time_budget_s: float | None = None

    def __post_init__(self):
        self._logged: set[tuple[int, str]] = set()
        """Iteration and split of the records that this attempt's log has."""
        self._checkpoints = Checkpoints(
            self.run.checkpoints, self.checkpoint.num_to_keep, self.run.config_path
        )
        self._seconds_log = 0.0
        """What keeping the iteration before took; logged with the next, as its own rows are on disk before it
        ends."""
        best = self._checkpoints.best
        self._best_score: float | None = read_note(best).get("best_score") if best else None
        self._before = load_scores(self.run.path / HELDOUT_BEFORE)
        last = load_scores(self.run.path / HELDOUT_LAST)
        # Scores of an iteration that a dead attempt ran beyond its checkpoint are superseded like its log
        # rows.
        self._after = last if last and last[0] <= self.algorithm.iteration else None

    def run_to_end(self) -> Ending:
        """The whole run.

        A second Ctrl-C raises KeyboardInterrupt; the run can be resumed from its last checkpoint.
        """
        started = time.monotonic()
        with Interrupts(self._on_interrupt) as interrupts:
            if self.evaluate and self._before is None:
                self._evaluate_before()
            self.progress.starting(self.algorithm.iteration)
            reason = self._reason({"training_iteration": self.algorithm.iteration}, started)
            while not (interrupts.requested or reason):
                with self._rollouts_kept():
                    result = self.algorithm.train()
                records = list(self.algorithm.records)
                reason = self._reason(result, started)
                if reason and self.evaluate and not result.get("evaluation") and not interrupts.requested:
                    result["evaluation"] = self._heldout("after")
                    records += self.algorithm.records[-1:]
                self._finish_iteration(result, records, is_last=reason is not None)
            if interrupts.requested and self.algorithm.iteration > 0:
                self._save(best=False)
                self.tracker.commit(self.algorithm.iteration)
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

    def _finish_iteration(
        self, result: dict[str, Any], records: list[IterationRecord], *, is_last: bool
    ) -> None:
        """Everything after `train()`, in the order that makes a crash at any point recoverable."""
        started, iteration = time.perf_counter(), self.algorithm.iteration
        records[0].seconds["log"] = result["igpo"]["seconds_log"] = self._seconds_log
        scores = result.get("evaluation")
        for record in records:
            self._log_rollouts(record, scores if record.split == HELDOUT else result["igpo"])
        self.progress.iteration(iteration, result["igpo"])
        is_best = self._note_evaluation(iteration, records, scores) if scores else False
        self.tracker.log_iteration(iteration, result)
        frequency = self.checkpoint.checkpoint_frequency
        if (
            is_best
            or (frequency and iteration % frequency == 0)
            or (is_last and self.checkpoint.checkpoint_at_end)
        ):
            self._save(best=is_best)
            self.tracker.commit(iteration)
        elif is_last:
            self.tracker.commit(iteration)
        self.run.note(iteration=iteration)
        self._seconds_log = time.perf_counter() - started

    def _log_rollouts(self, record: IterationRecord, metrics: Mapping[str, float] | None) -> None:
        self.log.write(record, metrics)
        self._logged.add((record.iteration, record.split))
        self.tracker.log_rollouts(record)

    @contextmanager
    def _rollouts_kept(self) -> Generator[None]:
        """Where the algorithm stops the run (tools that fail, a loss that is not finite), the rollouts that
        it stopped over are
        what one wants to look at: they are on disk before the run ends. A resumed run does that iteration
        again."""
        try:
            yield
        except Exception:
            stopped_over = [r for r in self.algorithm.records if (r.iteration, r.split) not in self._logged]
            for record in stopped_over:
                self.log.write(record)
            self.log.flush()
            for record in stopped_over:
                query = f'igpo sql {self.run.path} "SELECT * FROM turns WHERE iteration = {record.iteration}"'
                self.progress.message(
                    f"rollouts of iteration {record.iteration} ({record.split}): {escape(query)}"
                )
            raise

    def _heldout(self, when: str) -> dict[str, float]:
        self.progress.busy(f"held-out evaluation {when} training ...")
        with self._rollouts_kept():
            return self.algorithm.evaluate()

    def _evaluate_before(self) -> None:
        iteration, scores = self.algorithm.iteration, self._heldout("before")
        records = self.algorithm.records[-1:]
        self._log_rollouts(records[0], scores)
        self._before = self._keep(HELDOUT_BEFORE, iteration, records)
        self.tracker.log_iteration(iteration, {"evaluation": scores})
        self.tracker.commit(iteration)
        self.progress.evaluation("before training", scores)

    def _evaluate_after(self) -> None:
        """For a run that had nothing left to train, or was interrupted where it now ends."""
        iteration = self.algorithm.iteration
        if not self.evaluate or any(kept and kept[0] == iteration for kept in (self._before, self._after)):
            return
        scores = self._heldout("after")
        records = self.algorithm.records[-1:]
        self._log_rollouts(records[0], scores)
        self.tracker.log_iteration(iteration, {"evaluation": scores})
        if self._note_evaluation(iteration, records, scores):
            self._save(best=True)
        self.tracker.commit(iteration)

    def _note_evaluation(
        self, iteration: int, records: list[IterationRecord], scores: Mapping[str, float]
    ) -> bool:
        """Keeps and shows held-out scores; True where they are the best so far."""
        self._after = self._keep(HELDOUT_LAST, iteration, records)
        is_best = self._best_score is None or scores[BEST_METRIC] > self._best_score
        if is_best:
            self._best_score = scores[BEST_METRIC]
        self.progress.evaluation(f"after iteration {iteration}", scores, best=is_best)
        return is_best

    def _keep(self, name: str, iteration: int, records: list[IterationRecord]) -> tuple[int, Scores]:
        """The held-out scores of `records`, kept in the run's file `name`."""
        self.log.flush()
        scores = scores_of([r for record in records if record.split == HELDOUT for r in record.rollouts])
        save_scores(self.run.path / name, iteration, scores)
        return iteration, scores

    def _save(self, *, best: bool) -> None:
        diary = self.run.diary
        note = {"run_id": diary["run_id"], "attempt": len(diary["attempts"]), "best_score": self._best_score}
        self._checkpoints.save(
            self.algorithm, self.algorithm.iteration, note, best=best, before_it_counts=self.log.flush
        )

    def _on_interrupt(self, name: str) -> None:
        self.progress.message(
            f"[yellow]{name}: finishing this iteration and saving a checkpoint; once more stops at once[/]"
        )


def reached(stop: Mapping[str, float], result: Mapping[str, Any]) -> str | None:
    """Which criterion of `stop` the result meets (metric >= value, `/` for nested), in words, or None.

    A metric that this result does not have (no evaluation this time) decides nothing.
    """
    for name, bound in stop.items():
        value: Any = result
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value >= bound:
            return f"{name} reached {value:.6g} (stop at {bound:g})"
    return None
