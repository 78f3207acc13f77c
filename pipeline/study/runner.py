"""Runs cells one after another: Ray and the rollout engine start once, each cell starts over with fresh
weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from algorithms.igpo.guards import check_tools
from algorithms.igpo.metrics import evaluation_metrics
from pipeline.study.measures import heldout_row, training_row
from pipeline.study.plan import Cell, Plan

if TYPE_CHECKING:
    from algorithms.igpo.algorithm import IGPO
    from algorithms.igpo.config import IGPOConfig

Progress = Callable[[int, dict[str, Any]], None]
"""Called with the tokens sampled so far and the newest row."""


class CellRunner:
    """Use as a context manager: it holds the algorithm, and with it the engine, from cell to cell."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._algorithm: IGPO | None = None

    def __enter__(self) -> CellRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._algorithm is not None:
            self._algorithm.stop()
            self._algorithm = None

    def run(self, cell: Cell, progress: Progress) -> tuple[list[dict[str, Any]], Any]:
        """Trains until the budget is spent, evaluating on the way; returns the cell's rows and its learning
        rate.
        """
        config = cell.experiment(self._plan).algorithm_config()
        algorithm = self._start_over(config)
        so_far = {"tokens": 0, "rollouts": 0, "seconds": 0.0}
        rows = self._evaluations(algorithm, so_far)
        evaluations = [
            *(tokens for tokens in self._plan.evaluate_at_tokens if tokens < cell.budget_tokens),
            cell.budget_tokens,
        ]
        while so_far["tokens"] < cell.budget_tokens:
            started = time.perf_counter()
            metrics = algorithm.train()["igpo"]
            so_far = {
                "tokens": so_far["tokens"] + int(metrics["tokens_sampled"]),
                "rollouts": so_far["rollouts"] + int(metrics["rollouts_sampled"]),
                "seconds": so_far["seconds"] + time.perf_counter() - started,
            }
            rows.append(training_row(algorithm.records[0], metrics, so_far))
            if so_far["tokens"] >= evaluations[0]:
                rows += self._evaluations(algorithm, so_far, last=so_far["tokens"] >= cell.budget_tokens)
                evaluations = [tokens for tokens in evaluations if tokens > so_far["tokens"]]
            progress(so_far["tokens"], rows[-1])
        return rows, config.lr

    def _evaluations(
        self, algorithm: IGPO, so_far: dict[str, Any], last: bool = False
    ) -> list[dict[str, Any]]:
        """Held-out rows of the policy as it is trained, at temperature 1; at the start and the end greedy
        too.

        Greedy decoding of a policy that is still unsure flips from one habit to the other as a whole, where
        the policy itself
        changes little: it is a measure of the end, not of progress.
        """
        questions = algorithm.task.heldout_questions[: algorithm.config.evaluation_questions]
        temperatures = {"heldout": 1.0} | ({"greedy": 0.0} if last or algorithm.iteration == 0 else {})
        rows = []
        for split, temperature in temperatures.items():
            record = algorithm.rollout_questions(questions, temperature=temperature)
            check_tools(record.rollouts, algorithm.config.max_tool_error_share, "in the held-out evaluation")
            rows.append(heldout_row(split, algorithm.iteration, evaluation_metrics(record.rollouts), so_far))
        return rows

    def _start_over(self, config: IGPOConfig) -> IGPO:
        algorithm = self._algorithm
        if algorithm is None or not algorithm.start_over(config):
            self.__exit__()
            algorithm = cast("IGPO", config.build_algo())
        self._algorithm = algorithm
        return algorithm
