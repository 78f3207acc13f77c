"""Serves a retriever in Search-R1's wire format (FastAPI): `POST /retrieve`, and `GET /health`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from envs.retrieval.base import Hit, Retriever, RetrieverError
from envs.retrieval.serving.joined_searches import JoinedSearches
from envs.retrieval.wire import RetrieveRequest, WireDocument, parse_json

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


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY:
                raise HTTPException(413, f"a request may have {MAX_BODY} bytes")
            parts.append(part)
    except ClientDisconnect as error:
        raise HTTPException(400, "the client went away in the middle of its request") from error
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
