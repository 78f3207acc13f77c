"""A question with its gold answers, as every reader of questions returns it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

AliasRule = Literal["first", "max", "mean"]
"""Which gold answers of a question belief is about (docs/definitions.md)."""


@dataclass(slots=True)
class Question:
    """One prompt: a question and its gold answers (aliases).

    `gold_document_ids` names the evidence documents in hop order where the data set knows them, else it is
    empty. `hops` is the number of reasoning hops where known, else None.
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
    """Indices of the gold answers to score, int64, ascending.

    `first` scores alias 0 only. `max` and `mean` drop aliases longer than `max_answer_tokens`, but keep the
    shortest (the first of equals) if none remains.

    Raises ValueError for an unknown rule or an empty alias list.
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
