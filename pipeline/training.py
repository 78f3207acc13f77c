"""The loop that a person's run is: train, log, checkpoint, track, say so; end cleanly however it ends.

The order within an iteration makes every crash recoverable: the rollout log is on disk before the checkpoint that builds on it
counts as saved, and the tracker commits last. What a dead attempt did beyond its checkpoint is superseded by the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from algorithms.igpo.record import IterationRecord
from pipeline.checkpoints import Checkpoints, read_note
from pipeline.comparison import Scores, load_scores, save_scores, scores_of
from pipeline.interrupts import Interrupts

if TYPE_CHECKING:
    from pipeline.experiment import CheckpointSettings
    from pipeline.progress import Progress
    from pipeline.run_directory import RunDirectory

BEST_METRIC = "em_squad"


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
    def log(self, iteration: int, metrics: Mapping[str, Mapping[str, float]]) -> None: ...
    def commit(self, iteration: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended: `finished`, or `interrupted` by the user; why, after which iteration, and the held-out scores."""

    how: str
    reason: str
    iteration: int
    before: Scores | None = None
    after: Scores | None = None


@dataclass
class TrainingLoop:
    """Trains `algorithm` in the directory of `run` until a stop criterion, the time budget, or Ctrl-C.

    `evaluate`: held-out evaluation before training, after it, and whenever the algorithm's own interval makes one.
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
        self._checkpoints = Checkpoints(self.run.checkpoints, self.checkpoint.num_to_keep)
        best = self._checkpoints.best
        self._best_score: float | None = read_note(best).get("best_score") if best else None
        self._before = load_scores(self.run.path / "heldout_before.json")
        last = load_scores(self.run.path / "heldout_last.json")
        # Scores of an iteration that a dead attempt ran beyond its checkpoint are superseded like its log rows.
        self._after = last if last and last[0] <= self.algorithm.iteration else None
        self._lost_runners = 0

    def run_to_end(self) -> Ending:
        """The whole run. A second Ctrl-C raises KeyboardInterrupt; the run can be resumed from its last checkpoint."""
        with Interrupts(self._on_interrupt) as interrupts:
            if self.evaluate and self._before is None:
                self._evaluate_before()
            reason = self._iterate(interrupts)
            how = "interrupted" if interrupts.requested else "finished"
            if how == "finished":
                self._evaluate_after()
            if self.algorithm.iteration > 0 and (how == "interrupted" or self.checkpoint.checkpoint_at_end):
                self._save(best=False)
        before, after = (kept[1] if kept else None for kept in (self._before, self._after))
        return Ending(how, reason, self.algorithm.iteration, before, after)

    def _iterate(self, interrupts: Interrupts) -> str:
        """Trains until there is a reason to stop, and returns it."""
        started = time.monotonic()
        self.progress.starting(self.algorithm.iteration)
        result: dict[str, Any] = {"training_iteration": self.algorithm.iteration}
        while True:
            if interrupts.requested:
                return "interrupted"
            if reason := reached(self.stop, result):
                return reason
            if self.time_budget_s is not None and time.monotonic() - started >= self.time_budget_s:
                return f"the time budget of {self.time_budget_s:g} s is spent"
            result = self.algorithm.train()
            self._after_iteration(result)

    def _after_iteration(self, result: dict[str, Any]) -> None:
        iteration = self.algorithm.iteration
        self._write_log({"train": result["igpo"], "heldout": result.get("evaluation", {})})
        is_best = self._note_evaluation(iteration, result.get("evaluation"))
        frequency = self.checkpoint.checkpoint_frequency
        if is_best or (frequency and iteration % frequency == 0):
            self._save(best=is_best)
        self.tracker.log(iteration, {name: result[name] for name in ("igpo", "evaluation") if result.get(name)})
        self.tracker.commit(iteration)
        self.run.note(iteration=iteration)
        self.progress.iteration(iteration, result["igpo"])
        self._report_faults(result)

    def _evaluate_before(self) -> None:
        self.progress.busy("held-out evaluation before training ...")
        iteration, scores = self.algorithm.iteration, self.algorithm.evaluate()
        self._write_log({"heldout": scores})
        self._before = self._keep("heldout_before.json", iteration)
        self.tracker.log(iteration, {"evaluation": scores})
        self.tracker.commit(iteration)
        self.progress.evaluation(iteration, scores, "before training")

    def _evaluate_after(self) -> None:
        iteration = self.algorithm.iteration
        if not self.evaluate or any(kept and kept[0] == iteration for kept in (self._before, self._after)):
            return
        self.progress.busy("held-out evaluation after training ...")
        scores = self.algorithm.evaluate()
        self._write_log({"heldout": scores})
        if self._note_evaluation(iteration, scores):
            self._save(best=True)
        self.tracker.log(iteration, {"evaluation": scores})
        self.tracker.commit(iteration)

    def _note_evaluation(self, iteration: int, scores: dict[str, float] | None) -> bool:
        """Keeps and shows held-out scores; True where they are the best so far."""
        if not scores:
            return False
        self._after = self._keep("heldout_last.json", iteration)
        is_best = self._best_score is None or scores[BEST_METRIC] > self._best_score
        if is_best:
            self._best_score = scores[BEST_METRIC]
        self.progress.evaluation(iteration, scores, "best so far" if is_best else "")
        return is_best

    def _keep(self, name: str, iteration: int) -> tuple[int, Scores]:
        """The held-out scores of `records`, kept in a file so that a resumed run need not ask again."""
        self.log.flush()
        rollouts = [r for record in self.algorithm.records if record.split == "heldout" for r in record.rollouts]
        scores = scores_of(rollouts)
        save_scores(self.run.path / name, iteration, scores)
        return iteration, scores

    def _write_log(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        for record in self.algorithm.records:
            self.log.write(record, metrics.get(record.split, {}))

    def _save(self, *, best: bool) -> None:
        self.log.flush()
        diary = self.run.diary
        note = {"run_id": diary["run_id"], "attempt": len(diary["attempts"]), "best_score": self._best_score}
        self._checkpoints.save(self.algorithm, self.algorithm.iteration, note, best=best)

    def _report_faults(self, result: dict[str, Any]) -> None:
        restarts = int(result.get("fault_tolerance", {}).get("num_remote_worker_restarts", 0))
        if restarts > self._lost_runners:
            self.progress.message(
                f"[yellow]an env runner died and was started again ({restarts} so far); the run goes on[/]"
            )
        self._lost_runners = max(self._lost_runners, restarts)
        missing = result["igpo"].get("groups_incomplete", 0)
        if missing:
            self.progress.message(f"[yellow]{missing:.0f} groups came back incomplete and were left out[/]")

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
