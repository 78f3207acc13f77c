"""Serves a retriever in Search-R1's wire format (FastAPI): `POST /retrieve`, and `GET /health`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException

from envs.retrieval.base import Retriever, RetrieverError
from envs.retrieval.wire import RetrieveRequest, WireDocument


def retrieval_app(retriever: Retriever, default_top_k: int) -> FastAPI:
    """The server's application. A batch of queries is one search. Requests run in a pool of threads.

    Args:
        retriever: the retriever to serve.
        default_top_k: hits per query for requests without `topk`.
    """
    app = FastAPI(title="igpo serve-retriever", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/retrieve")
    def retrieve(request: RetrieveRequest) -> dict[str, Any]:
        try:
            found = retriever.search(request.queries, request.topk or default_top_k)
        except RetrieverError as error:
            raise HTTPException(503, str(error)) from error
        documents = [[(WireDocument.of(hit).model_dump(), hit.score) for hit in hits] for hits in found]
        if request.return_scores:
            return {
                "result": [
                    [{"document": document, "score": score} for document, score in hits] for hits in documents
                ]
            }
        return {"result": [[document for document, _ in hits] for hits in documents]}

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "retriever": retriever.identity}

    return app
