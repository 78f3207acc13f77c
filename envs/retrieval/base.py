"""What a retriever is: batch queries in, scored documents out, and an identity that every run logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved document; a higher score is better, comparable only within one retriever."""

    document_id: str
    title: str
    text: str
    score: float


class PricedHits(list[list[Hit]]):
    """Hits per query that had a price: `credits` is what a paid service took for them, 0 where all came from
    a cache.
    """

    def __init__(self, hits: list[list[Hit]], credits: float):
        super().__init__(hits)
        self.credits = credits


class RetrieverError(RuntimeError):
    """A search that failed for a reason outside the policy's and the user's hands (server down, time out).

    The environment shows it to the policy as an error observation and counts it; any other exception is a bug
    and ends the run.
    """


class Retriever(Protocol):
    """Searches documents. `search` may be called from several threads at once."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the results: `kind`, corpus hash, parameters. Plain JSON values.

        Raises:
            RetrieverError: a server must be asked, and does not answer.
        """
        ...

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """At most `top_k` hits per query, best first; an empty list where nothing matches.

        Raises:
            RetrieverError: the search could not be carried out.
        """
        ...
