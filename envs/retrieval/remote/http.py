"""A retriever behind HTTP, in Search-R1's wire format.

The server may be `igpo serve-retriever`, or one of Search-R1, verl, SkyRL or slime.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import ValidationError

from envs.data.corpus import Corpus
from envs.errors import InputError
from envs.retrieval.base import Hit, RetrieverError
from envs.retrieval.config import HTTPSettings
from envs.retrieval.remote.client import JSONClient
from envs.retrieval.wire import RetrieveAnswer


class HTTPRetriever:
    """Searches through the server at `settings.url`. Thread-safe.

    Args:
        settings: address and limits.
        corpus: a copy of the server's corpus, in which gold documents can be recognised; None where only the
            server has it.
    """

    def __init__(self, settings: HTTPSettings, corpus: Corpus | None = None):
        self._settings = settings
        self._corpus = corpus
        self._client = JSONClient(settings)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The address, and under `server` the server's own identity from `/health` (None without one).

        Raises:
            RetrieverError: the server can't be reached.
        """
        health = self._client.get("/health")
        return {
            "kind": "http",
            "url": self._settings.url,
            "server": health.get("retriever") if isinstance(health, dict) else None,
        }

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """The server's documents per query, in its order.

        If the server gives no scores, the k-th document has the score 1/k.

        Raises:
            RetrieverError: the server does not answer, or not in Search-R1's format.
            InputError: the server searches another corpus.
        """
        if not queries:
            return []
        answer = self._client.post({"queries": queries, "topk": top_k, "return_scores": True})
        try:
            result = RetrieveAnswer.model_validate(answer).result
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "its top"
            raise RetrieverError(
                f"the server {self._client.server} does not speak Search-R1's format (at {where}: "
                f"{first['msg']})"
            ) from error
        if len(result) != len(queries):
            raise RetrieverError(
                f"the server {self._client.server} answered {len(result)} results for {len(queries)} queries"
            )
        found = [
            [
                hit.document.hit(1 / rank if hit.score is None else hit.score)
                for rank, hit in enumerate(hits[:top_k], start=1)
            ]
            for hits in result
        ]
        for hits in found:
            for hit in hits:
                self._require_known(hit)
        return found

    def _require_known(self, hit: Hit) -> None:
        """Raises InputError for a document that the copy lacks, because ids identify gold evidence."""
        if self._corpus is None:
            return
        try:
            same = self._corpus.by_id(hit.document_id).title == hit.title
        except KeyError:
            same = False
        if not same:
            raise InputError(
                f"the server {self._client.server} searches other documents than env_config.corpus "
                f"{self._corpus.source}, which has no {hit.title!r} of id {hit.document_id!r}: give the file "
                "that it serves, or `corpus: remote`"
            )
