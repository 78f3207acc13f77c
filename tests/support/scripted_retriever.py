"""A retriever that follows a script, for tests of the code that uses one."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from envs.retrieval.base import Hit


class ScriptedRetriever:
    """Answers each query from `answers`: returns its hits or raises its exception. Unknown queries find
    nothing.

    `queries` lists all queries in their order.
    """

    def __init__(self, answers: Mapping[str, Sequence[Hit] | Exception]):
        self._answers = dict(answers)
        self._lock = threading.Lock()
        self.queries: list[str] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "scripted", "queries": len(self._answers)}

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        with self._lock:
            self.queries += queries
        results: list[list[Hit]] = []
        for query in queries:
            answer = self._answers.get(query, ())
            if isinstance(answer, Exception):
                raise answer
            results.append(list(answer[:top_k]))
        return results
