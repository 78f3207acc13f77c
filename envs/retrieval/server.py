"""Serves a retriever in Search-R1's wire format (FastAPI): `POST /retrieve`, and `GET /health`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import ValidationError

from envs.retrieval.base import Hit, Retriever, RetrieverError
from envs.retrieval.wire import MAX_QUERIES, RetrieveRequest, WireDocument, parse_json

MAX_BODY = 4 * 2**20
"""Bytes of a request; a longer one gets status 413."""


def retrieval_app(retriever: Retriever, default_top_k: int) -> FastAPI:
    """The server's application. Requests that wait at the same time become one search.

    A request beyond a limit gets status 413 (its bytes) or 422 (queries, `topk`, depth of its JSON).

    Args:
        retriever: the retriever to serve.
        default_top_k: hits per query for requests without `topk`.
    """
    app = FastAPI(title="igpo serve-retriever", docs_url=None, redoc_url=None, openapi_url=None)
    searches = JoinedSearches(retriever)

    @app.post("/retrieve")
    async def retrieve(http_request: Request) -> dict[str, Any]:
        request = _parsed(await _body(http_request))
        found = searches.submit(request.queries, request.topk or default_top_k)
        try:
            hits = await asyncio.wrap_future(found)
        except RetrieverError as error:
            raise HTTPException(503, str(error)) from error
        return _answer(hits, with_scores=request.return_scores)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "retriever": retriever.identity}

    return app


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


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise HTTPException(413, f"a request may have {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _parsed(body: bytes) -> RetrieveRequest:
    try:
        return RetrieveRequest.model_validate(parse_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise HTTPException(422, f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise HTTPException(422, f"the request is {error}") from error


def _answer(found: list[list[Hit]], *, with_scores: bool) -> dict[str, Any]:
    documents = [[(WireDocument.of(hit).model_dump(), hit.score) for hit in hits] for hits in found]
    if with_scores:
        return {
            "result": [
                [{"document": document, "score": score} for document, score in hits] for hits in documents
            ]
        }
    return {"result": [[document for document, _ in hits] for hits in documents]}
