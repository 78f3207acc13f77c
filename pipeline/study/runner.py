"""Runs the cells of a study one after another on the same Ray and rollout engine.

Each cell begins with fresh weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from algorithms.igpo.guards import check_tools
from algorithms.igpo.metrics import evaluation_metrics
from pipeline.study.measures import heldout_row, training_row
from pipeline.study.plan import Cell, Plan
from pipeline.training.ray_processes.watch import lost_ray

if TYPE_CHECKING:
    from algorithms.igpo.algorithm import IGPO
    from algorithms.igpo.config import IGPOConfig

Progress = Callable[[int, dict[str, Any]], None]
"""Receives the number of tokens sampled so far and the newest row."""


class CellRunner:
    """Keeps the algorithm, and with it the engine, from cell to cell. Use it as a context manager."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._algorithm: IGPO | None = None

    def __enter__(self) -> CellRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._algorithm is not None:
            if lost_ray() is None:
                self._algorithm.stop()
            self._algorithm = None

    def run(self, cell: Cell, progress: Progress) -> tuple[list[dict[str, Any]], Any]:
        """Trains until the cell's token budget is spent, with held-out evaluations in between.

        Returns:
            The cell's rows, and its learning rate.
        """
        config = cell.experiment(self._plan).algorithm_config()
        algorithm = self._begin(config)
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
        """Evaluates held-out questions at temperature 1, and at the start and the end greedily too.

        Greedy decoding does not measure progress: while a policy is unsure, a small change of it can switch
        all greedy answers from one habit to another.
        """
        questions = algorithm.task.heldout_questions[: algorithm.config.evaluation_questions]
        temperatures = {"heldout": 1.0} | ({"greedy": 0.0} if last or algorithm.iteration == 0 else {})
        rows = []
        for split, temperature in temperatures.items():
            record = algorithm.rollout_questions(questions, temperature=temperature)
            check_tools(record.rollouts, algorithm.config.max_tool_error_share, "in the held-out evaluation")
            rows.append(heldout_row(split, algorithm.iteration, evaluation_metrics(record.rollouts), so_far))
        return rows

    def _begin(self, config: IGPOConfig) -> IGPO:
        """Returns an algorithm at iteration 0 of `config`: the running one where its engines fit.

        The algorithm is used without Tune here, so `Trainable.reset` is called directly.
        """
        algorithm = self._algorithm
        if algorithm is None or not algorithm.reset(config):
            self.__exit__()
            algorithm = cast("IGPO", config.build_algo())
        self._algorithm = algorithm
        return algorithm
