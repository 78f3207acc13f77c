"""Joins the searches of many clients: what waits while a search is under way becomes the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

from envs.retrieval.base import Hit, Retriever
from envs.retrieval.wire import MAX_QUERIES


@dataclass(slots=True)
class _Waiting:
    queries: Sequence[str]
    top_k: int
    found: Future[list[list[Hit]]] = field(default_factory=Future)


class JoinedSearches:
    """Joins the searches that wait for a retriever, in the order of their arrival.

    One thread searches. So no request waits behind later ones, and an encoder sees batches. A search that
    fails among others is made again alone, so that its fault is its own.
    """

    def __init__(self, retriever: Retriever):
        self._retriever = retriever
        self._waiting: deque[_Waiting] = deque()
        self._arrived = Condition()
        Thread(target=self._work, name="retriever", daemon=True).start()

    def submit(self, queries: Sequence[str], top_k: int) -> Future[list[list[Hit]]]:
        """Returns a future of the hits of each query."""
        waiting = _Waiting(queries, top_k)
        with self._arrived:
            self._waiting.append(waiting)
            self._arrived.notify()
        return waiting.found

    def _work(self) -> None:
        while True:
            with self._arrived:
                while not self._waiting:
                    self._arrived.wait()
                batch = self._next_batch()
            # A client that went away cancelled its future.
            self._search([waiting for waiting in batch if waiting.found.set_running_or_notify_cancel()])

    def _next_batch(self) -> list[_Waiting]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].queries)
        while self._waiting and self._waiting[0].top_k == batch[0].top_k:
            size += len(self._waiting[0].queries)
            if size > MAX_QUERIES:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _search(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            queries = [query for waiting in batch for query in waiting.queries]
            hits = iter(self._retriever.search(queries, batch[0].top_k))
            results = [[next(hits) for _ in waiting.queries] for waiting in batch]
        except Exception as error:  # it belongs to whoever waits for the future
            if len(batch) == 1:
                batch[0].found.set_exception(error)
                return
            for waiting in batch:
                self._search([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.found.set_result(result)
