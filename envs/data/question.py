"""A question with its gold answers, and the rule for which of them are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

AliasRule = Literal["first", "max", "mean"]
"""How the belief in several gold answers becomes one score (definitions: Belief and information gain)."""

LAST_RESORT = 4
"""A gold answer that is scored for want of a shorter one has at most this many times `max_answer_tokens`."""


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
        rule: `first` considers alias 0 only. `max` and `mean` drop aliases of more than `max_answer_tokens`
            tokens, but consider the shortest (the first of equals) if none remains.
        max_answer_tokens: the limit. An alias that is the only one considered may have `LAST_RESORT` times
            as many tokens.

    Returns:
        Indices of the chosen aliases, int64, ascending. Empty: the question is played without belief.

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
    kept = np.flatnonzero(counts_K <= max_answer_tokens)
    if rule != "first" and kept.size:
        return kept
    only = 0 if rule == "first" else int(np.argmin(counts_K))
    return np.flatnonzero((np.arange(counts_K.size) == only) & (counts_K <= LAST_RESORT * max_answer_tokens))
