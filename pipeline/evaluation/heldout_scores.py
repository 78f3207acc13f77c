"""Held-out scores, question by question: of rollouts, and in a file of a run's directory."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.durable import write_text
from envs.errors import InputError
from envs.search.trajectory import Rollout


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


def mean_score(scores: Scores, metric: str) -> float | None:
    """Computes the mean of `em` or `f1` over the questions; None if there are none."""
    values = [getattr(score, metric) for score in scores.values()]
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
