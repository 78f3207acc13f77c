"""Combines retrievers by reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envs.retrieval.base import Hit, Retriever

RANK_CONSTANT = 60
"""The paper's k; the larger it is, the less the first rank counts above the next ones."""
DEPTH = 100
"""Number of hits to read from each retriever."""


class HybridRetriever:
    """Ranks documents by the sum over retrievers of 1 / (60 + rank), rank from 1. Thread-safe where they are.

    Only ranks count, so scores of different scales need no tuning. On a tie, the document that occurs first
    in the rankings, taken one after another, wins.

    The rankings a b and b c give b 1/62 + 1/61 = 0.0325, a 1/61 = 0.0164 and c 1/62 = 0.0161.
    """

    def __init__(self, retrievers: Sequence[Retriever]):
        self._retrievers = list(retrievers)

    @property
    def identity(self) -> dict[str, Any]:
        parts = [retriever.identity for retriever in self._retrievers]
        return {
            "kind": "hybrid",
            "parts": parts,
            "parameters": {"rank_constant": RANK_CONSTANT, "depth": DEPTH},
        }

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """The best `top_k` of the documents that any retriever found. The score is the sum above."""
        lists = [retriever.search(queries, max(top_k, DEPTH)) for retriever in self._retrievers]
        return [fuse(found, top_k) for found in zip(*lists, strict=True)]


def fuse(rankings: Sequence[list[Hit]], top_k: int) -> list[Hit]:
    """The best `top_k` of several rankings of one query."""
    scores: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            hits.setdefault(hit.document_id, hit)
            scores[hit.document_id] = scores.get(hit.document_id, 0.0) + 1 / (RANK_CONSTANT + rank)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:top_k]
    return [Hit(id, hits[id].title, hits[id].text, scores[id]) for id in best]
