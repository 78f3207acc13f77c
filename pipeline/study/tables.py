"""Computes numbers from the finished cells: curves, rollouts needed, final scores, paired tests.

Seeds are the observations: every interval is a bootstrap over seeds, every test is paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.intervals import bootstrap_interval
from pipeline.study.store import FinishedCell

LAST_EVALUATIONS = 3
"""A run's final score is the mean over this many last evaluations: one alone is noisy."""
NOT_REACHED = "not reached"
"""A seed of the method never reached the baseline's final EM."""
NOT_RISEN = "baseline did not rise"
"""A seed of the baseline ended no higher than it began, so every policy reaches that with no rollouts."""
SAME_SCORE = 1e-9
"""Scores that differ by less are the same: a mean of equal scores need not be equal to them in binary."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method against the baseline on one difficulty, paired by seed."""

    method: str
    difficulty: str
    difference: Estimate
    """Of final held-out EM."""
    p: float
    """Exact two-sided sign-flip test. With n seeds it cannot be below 2 / 2^n."""
    p_holm: float
    """p corrected for all comparisons of the study (Holm)."""
    rollouts_ratio: Estimate | str
    """Rollouts to reach the baseline's final EM over those that the baseline needed itself; where there is no
    such number, why: `NOT_REACHED` or `NOT_RISEN`."""


def heldout(found: FinishedCell) -> dict[str, np.ndarray]:
    """Returns the columns of the cell's held-out rows at temperature 1, in order."""
    return _columns(found, "heldout")


def greedy_final(found: FinishedCell) -> float:
    """Returns the greedy held-out exact match at the end."""
    return float(_columns(found, "greedy")["em"][-1])


def training(found: FinishedCell) -> dict[str, np.ndarray]:
    """Returns the columns of the cell's training rows, in order."""
    return _columns(found, "train")


def final(found: FinishedCell, column: str = "em") -> float:
    """Averages a held-out column over the last `LAST_EVALUATIONS` after the start, which is not trained."""
    return float(heldout(found)[column][1:][-LAST_EVALUATIONS:].mean())


def rollouts_to_reach(found: FinishedCell, em: float) -> float:
    """Counts the rollouts until held-out EM first reached `em`, linear between evaluations.

    Returns:
        Infinity where it never did.
    """
    columns = heldout(found)
    em_X, rollouts_X = columns["em"], columns["rollouts"]
    reached = np.flatnonzero(em_X >= em - SAME_SCORE)
    if not reached.size:
        return float("inf")
    k = int(reached[0])
    if k == 0:
        return 0.0
    share = min(1.0, (em - em_X[k - 1]) / (em_X[k] - em_X[k - 1]))
    return float(rollouts_X[k - 1] + share * (rollouts_X[k] - rollouts_X[k - 1]))


def estimate(values: Sequence[float]) -> Estimate:
    """Computes the mean and the 95% bootstrap interval of one value per seed."""
    low, high = bootstrap_interval(values)
    return Estimate(float(np.mean(values)), low, high, len(values))


def compare(cells: list[FinishedCell], baseline: str) -> list[Comparison]:
    """Compares every other method with `baseline` on each difficulty where at least 2 seeds have both."""
    by_key = {
        (found.cell.difficulty, found.cell.method, found.cell.seed): found
        for found in cells
        if not found.cell.is_tuning
    }
    rows = []
    for difficulty, method in sorted({(d, m) for d, m, _ in by_key if m != baseline}):
        seeds = [
            s for d, m, s in by_key if (d, m) == (difficulty, method) and (difficulty, baseline, s) in by_key
        ]
        if len(seeds) < 2:
            continue
        own = [by_key[difficulty, method, seed] for seed in seeds]
        base = [by_key[difficulty, baseline, seed] for seed in seeds]
        differences = [final(a) - final(b) for a, b in zip(own, base, strict=True)]
        rows.append((method, difficulty, differences, _rollouts_ratio(own, base)))
    p_values = [sign_flip_p(differences) for _, _, differences, _ in rows]
    return [
        Comparison(method, difficulty, estimate(differences), p, p_holm, ratio)
        for (method, difficulty, differences, ratio), p, p_holm in zip(
            rows, p_values, holm(p_values), strict=True
        )
    ]


def _rollouts_ratio(own: list[FinishedCell], base: list[FinishedCell]) -> Estimate | str:
    pairs = [
        (rollouts_to_reach(a, final(b)), rollouts_to_reach(b, final(b)))
        for a, b in zip(own, base, strict=True)
    ]
    if any(needed == np.inf for needed, _ in pairs):
        return NOT_REACHED
    if any(needed_by_base == 0 for _, needed_by_base in pairs):
        return NOT_RISEN
    return estimate([needed / needed_by_base for needed, needed_by_base in pairs])


def sign_flip_p(differences: Sequence[float]) -> float:
    """Computes the exact two-sided p of the paired permutation test.

    It is the share of sign flips with a |mean| of at least the observed one.
    """
    from scipy.stats import permutation_test

    values = np.asarray(differences, dtype=np.float64)
    result = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: controls the chance of any false finding among all tests."""
    order = np.argsort(p_values, kind="stable")
    corrected, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def _columns(found: FinishedCell, split: str) -> dict[str, np.ndarray]:
    rows = [row for row in found.table.to_pylist() if row["split"] == split]
    return {
        name: np.array([row[name] for row in rows], dtype=np.float64)
        for name in found.table.schema.names
        if name != "split"
    }
