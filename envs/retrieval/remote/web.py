"""Google through Serper's JSON API (https://serper.dev): titles and snippets, as the paper searches.

Answers stay on disk, so repeating a run costs nothing. Tested against a loopback server of the documented
format, not against the live service.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from envs.cache_folder import cache_directory
from envs.credentials import read_key
from envs.retrieval.base import Hit, PricedHits, RetrieverError
from envs.retrieval.config import WebSettings
from envs.retrieval.remote.client import JSONClient


class _Page(BaseModel):
    """One organic result."""

    title: str = ""
    link: str
    snippet: str = ""


class _Answer(BaseModel):
    """Serper's answer to `{"q": query, "num": n}`; `credits` is its price."""

    organic: list[_Page] = []
    credits: float = Field(1.0, ge=0, allow_inf_nan=False)


class WebRetriever:
    """Searches the web. Thread-safe; the queries of one call go out together, equal ones once.

    Args:
        settings: address, name of the environment variable that holds the key, limits.
        cache: folder for the answers; None means `cache_directory()`.

    Raises:
        InputError: the variable is not set, or holds no key.
    """

    def __init__(self, settings: WebSettings, cache: Path | None = None):
        import diskcache

        key = read_key(settings.api_key_variable, "serper.dev", "retriever `web`")
        self._client = JSONClient(settings, headers={"X-API-KEY": key})
        self._pool = ThreadPoolExecutor(settings.max_concurrency, thread_name_prefix="web")
        self._cache = diskcache.Cache(
            str((cache or cache_directory()) / "web"), disk=diskcache.JSONDisk, eviction_policy="none"
        )
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], Future[_Answer]] = {}
        """Queries that a thread is asking."""
        self.identity: dict[str, Any] = {"kind": "web", "url": settings.url}

    def search(self, queries: list[str], top_k: int) -> PricedHits:
        """At most `top_k` pages per query. The id of a hit is its address, the score 1 / rank.

        `credits` is the price of the answers that were not cached.
        """
        answers = list(self._pool.map(lambda query: self._answer(query, top_k), queries))
        hits = [
            [
                Hit(page.link, page.title, page.snippet, 1 / rank)
                for rank, page in enumerate(answer.organic[:top_k], start=1)
            ]
            for answer, _ in answers
        ]
        return PricedHits(hits, credits=sum(answer.credits for answer, is_new in answers if is_new))

    def _answer(self, query: str, count: int) -> tuple[_Answer, bool]:
        """The answer to a query, and whether it was bought now.

        A query that another thread is asking is not bought again: its answer is waited for.
        """
        with self._lock:
            asked = self._under_way.get((query, count))
            future = self._under_way.setdefault((query, count), Future())
        if asked is not None:
            return asked.result(), False
        try:
            answer, is_new = self._ask(query, count)
            future.set_result(answer)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:  # the cache has the answer by now
            with self._lock:
                del self._under_way[query, count]
        return answer, is_new

    def _ask(self, query: str, count: int) -> tuple[_Answer, bool]:
        key = [self.identity["url"], query, count]
        kept = self._cache.get(key)
        answer = self._client.post({"q": query, "num": count}) if kept is None else kept
        try:
            parsed = _Answer.model_validate(answer)
        except ValidationError as error:
            raise RetrieverError(
                f"the server {self._client.server} does not answer in Serper's format"
            ) from error
        if kept is None:
            self._cache.set(key, answer)
        return parsed, kept is None
