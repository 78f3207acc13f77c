"""The interface of a retriever: a batch of queries in, scored documents out, and an identity to log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved document.

    Attributes:
        document_id: id of the document.
        title: its title; may be empty.
        text: its text.
        score: higher is better; comparable only within one retriever.
    """

    document_id: str
    title: str
    text: str
    score: float


class PricedHits(list[list[Hit]]):
    """Hits per query, with their price.

    Args:
        hits: the hits of each query.
        credits: the price that a paid service took; 0 where all hits came from a cache.
    """

    def __init__(self, hits: list[list[Hit]], credits: float):
        super().__init__(hits)
        self.credits = credits


class RetrieverError(RuntimeError):
    """A search that failed for a reason that neither the policy nor the user controls (server down, time
    out).

    The environment counts it and shows it to the policy as an error observation. Any other exception is a bug
    and ends the run.
    """


class Retriever(Protocol):
    """Searches documents. `search` may be called from several threads at once."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the results (`kind`, corpus hash, parameters), in plain JSON values.

        Raises:
            RetrieverError: a server has to be asked and does not answer.
        """
        ...

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """Searches for each query.

        Args:
            queries: the queries.
            top_k: limit on the hits per query.

        Returns:
            The hits of each query, best first; an empty list where nothing matches.

        Raises:
            RetrieverError: the search failed.
        """
        ...
