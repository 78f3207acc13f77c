"""Did training help? Held-out scores question by question, before and after, with the interval of the paired
difference.

The same questions are answered greedily before and after, so the difference is taken per question and
bootstrapped over
questions: that removes the spread between easy and hard questions from the interval.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.durable import write_text
from envs.errors import InputError
from envs.search.trajectory import Rollout

RESAMPLES = 10_000
VALUES_AT_ONCE = 1_000_000
"""Resampled values that are in memory together, of 16 bytes each."""


@dataclass(frozen=True, slots=True)
class Score:
    """One question's held-out scores, averaged over its rollouts; each in [0, 1].

    `hops` is None where not known.
    """

    em: float
    f1: float
    hops: int | None = None


Scores = dict[str, Score]
"""Question id -> score."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of after - before over `questions` common to both, with the bounds of its 95% bootstrap
    interval.
    """

    mean: float
    low: float
    high: float
    questions: int


def scores_of(rollouts: list[Rollout]) -> Scores:
    """Scores (`em_squad`, `f1_squad`) per question id."""
    by_question: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_question[rollout.question.id].append(rollout)
    return {
        question: Score(
            em=float(np.mean([rollout.metrics["em_squad"] for rollout in group])),
            f1=float(np.mean([rollout.metrics["f1_squad"] for rollout in group])),
            hops=group[0].question.hops,
        )
        for question, group in by_question.items()
    }


def paired_difference(
    before: Scores, after: Scores, *, metric: str = "em", seed: int = 0
) -> Difference | None:
    """After minus before over the questions that both have; None if there are none.

    Deterministic in `seed`.
    """
    common = sorted(before.keys() & after.keys())
    if not common:
        return None
    values = [getattr(after[q], metric) - getattr(before[q], metric) for q in common]
    low, high = bootstrap_interval(values, seed=seed)
    return Difference(float(np.mean(values)), low, high, len(common))


def bootstrap_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Bounds of the 95% percentile bootstrap interval of the mean. Deterministic in `seed`."""
    return percentile_interval(bootstrap_means(values, seed=seed))


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


def mean_score(scores: Scores, metric: str = "em", hops: int | None = None) -> float | None:
    """Computes the mean over the questions (of `hops`, if given); None if there are none."""
    values = [getattr(score, metric) for score in scores.values() if hops is None or score.hops == hops]
    return float(np.mean(values)) if values else None


def hop_counts(scores: Scores) -> dict[int, int]:
    """Number of questions by hops, where hops are known; in order."""
    hops = [score.hops for score in scores.values() if score.hops is not None]
    return {hop: hops.count(hop) for hop in sorted(set(hops))}


def save_scores(path: Path, iteration: int, scores: Scores) -> None:
    """Writes the scores after `iteration` to `path`, atomically."""
    content = {question: [score.em, score.f1, score.hops] for question, score in scores.items()}
    write_text(path, json.dumps({"iteration": iteration, "scores": content}))


def load_scores(path: Path) -> tuple[int, Scores] | None:
    """(iteration, scores) of a file that `save_scores` wrote; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = {question: Score(*values) for question, values in content["scores"].items()}
        return content["iteration"], scores
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: this file is damaged: restore it from a copy, or remove it, and the run measures again."
        ) from error
