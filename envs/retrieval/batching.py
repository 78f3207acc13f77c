"""Searches for many clients at once: queries that wait while a search is under way become the next one."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from envs.retrieval.base import Hit, Retriever

MOST_QUERIES = 256
"""Queries of one search; of one client that sends more, all."""


@dataclass
class _Waiting:
    queries: list[str]
    top_k: int
    found: Future = field(default_factory=Future)


class BatchingRetriever:
    """A retriever whose searches run one after another in a thread of their own, each for all that wait.

    One search of many queries costs a dense retriever little more than one of one query, and threads that
    search at once would only take the processor from each other. Only calls with one `top_k` go together,
    because a fusion of rankings depends on it. Thread-safe.

    Args:
        retriever: searches; needs not be thread-safe.
    """

    def __init__(self, retriever: Retriever):
        self._retriever = retriever
        self._waiting: deque[_Waiting] = deque()
        self._arrived = threading.Condition()
        threading.Thread(target=self._work, name="search", daemon=True).start()

    @property
    def identity(self) -> dict[str, Any]:
        return self._retriever.identity

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """As the retriever's own `search`, whose errors every caller of a search that failed gets."""
        call = _Waiting(queries, top_k)
        with self._arrived:
            self._waiting.append(call)
            self._arrived.notify()
        return call.found.result()

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting)
                calls = self._next_calls()
            try:
                hits = iter(
                    self._retriever.search(
                        [query for call in calls for query in call.queries], calls[0].top_k
                    )
                )
                answers = [[next(hits) for _ in call.queries] for call in calls]
            except Exception as error:  # whoever waits for the search gets it
                for call in calls:
                    call.found.set_exception(error)
                continue
            for call, answer in zip(calls, answers, strict=True):
                call.found.set_result(answer)

    def _next_calls(self) -> list[_Waiting]:
        """Takes the first call, and those behind it that fit into the same search."""
        calls = [self._waiting.popleft()]
        room = MOST_QUERIES - len(calls[0].queries)
        left: deque[_Waiting] = deque()
        while self._waiting:
            call = self._waiting.popleft()
            if call.top_k == calls[0].top_k and len(call.queries) <= room:
                calls.append(call)
                room -= len(call.queries)
            else:
                left.append(call)
        self._waiting = left
        return calls
