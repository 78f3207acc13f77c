"""A question with its gold answers, and the rule for which of them are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

AliasRule = Literal["first", "max", "mean"]
"""How the belief in several gold answers becomes one score (definitions: Belief and information gain)."""


@dataclass(slots=True)
class Question:
    """One prompt: a question and its gold answers (aliases).

    Attributes:
        id: unique within the questions of an experiment.
        text: the question.
        golds: the gold answers, at least one.
        data_source: name of the data set.
        hops: number of reasoning hops; None where not known.
        gold_document_ids: ids of the evidence documents in hop order; empty where not known.
        metadata: further fields of the record.
    """

    id: str
    text: str
    golds: list[str]
    data_source: str = ""
    hops: int | None = None
    gold_document_ids: list[str] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)


def eligible_aliases(
    token_counts_K: Sequence[int], rule: AliasRule = "max", max_answer_tokens: int = 32
) -> np.ndarray:
    """Chooses the gold answers to score (definitions: Belief and information gain).

    Args:
        token_counts_K: number of gold tokens of each alias.
        rule: `first` scores alias 0 only. `max` and `mean` drop aliases of more than `max_answer_tokens`
            tokens, but keep the shortest (the first of equals) if none remains.
        max_answer_tokens: the limit.

    Returns:
        Indices of the chosen aliases, int64, ascending.

    Raises:
        ValueError: the rule is unknown, or there are no aliases.
    """
    if rule not in get_args(AliasRule):
        raise ValueError(f"alias_rule={rule!r} is unknown; known values: {', '.join(get_args(AliasRule))}")
    counts_K = np.asarray(token_counts_K)
    if counts_K.ndim != 1 or counts_K.size == 0:
        raise ValueError(
            f"a question needs at least one gold answer to score, got token counts of shape {counts_K.shape}"
        )
    if rule == "first":
        return np.array([0])
    kept = np.flatnonzero(counts_K <= max_answer_tokens)
    return kept if kept.size else np.array([int(np.argmin(counts_K))])
