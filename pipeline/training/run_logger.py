"""`RunLogger`: the RLlib callback that writes an algorithm's rollouts and metrics, for one attempt at a run.

`rllib train file` adds it to its algorithm, and `RunLogCallback` to every other one: rows are written here
and nowhere else.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.annotations import override

from algorithms.igpo.callbacks import IGPOCallback
from algorithms.igpo.iteration_record import IterationRecord
from pipeline.analysis.collapse_watch import CollapseWatch, Sign

HELDOUT = "heldout"
SIGNS = "collapse_signs"
"""Metric: how many signs of a collapse appeared at the iteration (docs/collapse.md)."""

logger = logging.getLogger(__name__)


class RolloutLog(Protocol):
    """The part of `RolloutLogWriter` that `RunLogger` uses."""

    def write(self, record: IterationRecord, metrics: Mapping[str, float] | None = None) -> None: ...
    def flush(self) -> None: ...


class Tracker(Protocol):
    """The part of `MlflowTracker` that `RunLogger` uses."""

    def log_iteration(self, iteration: int, result: Mapping[str, Any]) -> None: ...
    def log_rollouts(self, record: IterationRecord) -> None: ...
    def commit(self, iteration: int) -> None: ...


class RunLogger(IGPOCallback):
    """Writes the records of an algorithm to `log` and `tracker`, each iteration and split once.

    Rows are handed to the log's background thread. Call `log.flush()` before a checkpoint that contains the
    iteration counts as saved, and `tracker.commit()` after it.

    Args:
        log: the rollout log of this attempt.
        tracker: the MLflow run of this attempt.
        source: the run as `igpo sql` takes it, for messages.
        logged: (iteration, split) of rows that earlier attempts wrote and that stay valid; not written again.
        history: iteration and metrics of what they trained, for the watch for a collapse.

    Attributes:
        signs: signs of a collapse that appeared at the last iteration.
        seconds: time that keeping the last iteration took, seconds. It is logged with the next iteration,
            whose rows are on disk before its own keeping ends. Add to it what the caller spends on
            checkpoints.
    """

    def __init__(
        self,
        log: RolloutLog,
        tracker: Tracker,
        source: object,
        logged: Collection[tuple[int, str]] = (),
        history: Iterable[tuple[int, Mapping[str, float]]] = (),
    ):
        self.log = log
        self.tracker = tracker
        self.seconds = 0.0
        self._source = source
        self._logged = set(logged)
        self._watch = CollapseWatch(history)
        self.signs: list[Sign] = []

    @override(RLlibCallback)
    def on_train_result(self, *, algorithm, metrics_logger=None, result: dict, **kwargs) -> None:
        started = time.perf_counter()
        algorithm.records[0].seconds["log"] = result["igpo"]["seconds_log"] = self.seconds
        self.signs = self._watch.add(algorithm.iteration, result["igpo"])
        result["igpo"][SIGNS] = float(len(self.signs))
        for record in algorithm.records:
            self._write(record, result["evaluation"] if record.split == HELDOUT else result["igpo"])
        self.tracker.log_iteration(algorithm.iteration, result)
        self.seconds = time.perf_counter() - started

    @override(RLlibCallback)
    def on_evaluate_end(self, *, algorithm, metrics_logger=None, evaluation_metrics: dict, **kwargs) -> None:
        record = algorithm.records[-1]
        if record.iteration != algorithm.iteration:
            return  # inside train(): on_train_result writes both splits
        started = time.perf_counter()
        self._write(record, evaluation_metrics)
        self.tracker.log_iteration(algorithm.iteration, {"evaluation": evaluation_metrics})
        self.seconds += time.perf_counter() - started

    @override(IGPOCallback)
    def on_failure(self, *, algorithm) -> None:
        """Puts the rollouts that the run failed on to disk, for a person to look at.

        A resumed attempt samples their iteration again and supersedes them.
        """
        unlogged = [r for r in algorithm.records if (r.iteration, r.split) not in self._logged]
        for record in unlogged:
            self.log.write(record)
            self._logged.add((record.iteration, record.split))
        self.log.flush()
        for record in unlogged:
            logger.warning(
                'rollouts of iteration %d (%s): igpo sql %s "SELECT * FROM turns WHERE iteration = %d"',
                record.iteration,
                record.split,
                shlex.quote(str(self._source)),
                record.iteration,
            )

    def _write(self, record: IterationRecord, metrics: Mapping[str, float]) -> None:
        key = (record.iteration, record.split)
        if key in self._logged:
            return
        self._logged.add(key)
        self.log.write(record, metrics)
        self.tracker.log_rollouts(record)
