"""Did training help? Means and paired differences of held-out scores, with their bootstrap intervals.

The same questions are answered greedily before and after, so the difference is taken per question and
bootstrapped over questions: that removes the spread between easy and hard questions from the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.heldout_scores import Scores

RESAMPLES = 10_000
VALUES_AT_ONCE = 1_000_000
"""Resampled values that are in memory together, of 16 bytes each."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of after - before over `questions` common to both, with the bounds of its 95% bootstrap
    interval.
    """

    mean: float
    low: float
    high: float
    questions: int


def paired_difference(before: Scores, after: Scores, *, metric: str = "em") -> Difference | None:
    """After minus before over the questions that both have; None if there are none."""
    common = sorted(before.keys() & after.keys())
    if not common:
        return None
    values = [getattr(after[q], metric) - getattr(before[q], metric) for q in common]
    low, high = bootstrap_interval(values)
    return Difference(float(np.mean(values)), low, high, len(common))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of the 95% percentile bootstrap interval of the mean; the same at each call."""
    return percentile_interval(bootstrap_means(values))


def bootstrap_means(values: Sequence[float], *, seed: int = 0) -> np.ndarray:
    """Computes the means of `RESAMPLES` resamples of `values` [X]. Deterministic in `seed`."""
    values_Q = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means_X = np.empty(RESAMPLES)
    rows = max(1, VALUES_AT_ONCE // len(values_Q))
    for start in range(0, RESAMPLES, rows):  # the generator draws the same in blocks of any size
        block_X = means_X[start : start + rows]
        rows_XQ = generator.integers(0, len(values_Q), size=(len(block_X), len(values_Q)))
        block_X[:] = values_Q[rows_XQ].mean(axis=1)
    return means_X


def percentile_interval(means_X: np.ndarray) -> tuple[float, float]:
    """Bounds of the middle 95% of resampled means."""
    low, high = np.quantile(means_X, [0.025, 0.975])
    return float(low), float(high)
