"""The search for learning rates: what each rate scored, and which one a method's reported cells take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from pipeline.study.plan import Cell
from pipeline.study.store import FinishedCell
from pipeline.study.tables import heldout


@dataclass(frozen=True)
class RateScore:
    """What a learning rate of a method scored on a difficulty.

    `em`: held-out EM, averaged over all evaluations of a run but the first, then over the `seeds` that have
    run. `last_em`: EM of the last evaluation, averaged over these seeds.
    """

    method: str
    difficulty: str
    learning_rate: float
    seeds: int
    em: float
    last_em: float


def rate_scores(tuned: Iterable[FinishedCell]) -> list[RateScore]:
    """Scores every rate that was tried, in the order of the cells."""
    by_rate: dict[tuple[str, str, float], list[FinishedCell]] = defaultdict(list)
    for found in tuned:
        assert found.cell.learning_rate is not None, "a tuning cell has a learning rate"
        by_rate[found.cell.method, found.cell.difficulty, found.cell.learning_rate].append(found)
    return [
        RateScore(
            *key,
            seeds=len(seeds),
            em=fmean(float(heldout(found)["em"][1:].mean()) for found in seeds),
            last_em=fmean(float(heldout(found)["em"][-1]) for found in seeds),
        )
        for key, seeds in by_rate.items()
    ]


def best_rates(tuned: Iterable[FinishedCell]) -> dict[tuple[str, str], float]:
    """Finds the best learning rate by (method, difficulty).

    The average over evaluations prefers a rate that learns early and keeps what it learned. The smallest of
    equal rates wins.
    """
    best: dict[tuple[str, str], RateScore] = {}
    for score in sorted(rate_scores(tuned), key=lambda score: score.learning_rate):
        key = (score.method, score.difficulty)
        if key not in best or score.em > best[key].em:
            best[key] = score
    return {key: score.learning_rate for key, score in best.items()}


def with_rate(cell: Cell, rates: dict[tuple[str, str], float]) -> Cell:
    """Gives the cell its method's tuned learning rate on its difficulty, where there is one."""
    return replace(cell, learning_rate=rates.get((cell.method, cell.difficulty)))


def rate_in_words(rate: Any) -> str:
    """`0.001`; `schedule` where `lr` of the method's file is RLlib's list of (turns sampled, rate)."""
    return f"{rate:g}" if isinstance(rate, int | float) else "schedule"
