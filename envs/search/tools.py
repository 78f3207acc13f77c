"""Tools: what a decision may call. A failed call is a result with an `error`, which the policy sees and the log keeps."""

from __future__ import annotations

import time

from envs.retrieval.base import Hit, Retriever, RetrieverError
from envs.search.trajectory import ToolCall


class SearchTool:
    """Searches the corpus: `{"query": text}` in, the contents of the best `top_k` documents out."""

    name = "search"

    def __init__(self, retriever: Retriever, top_k: int):
        self._retriever = retriever
        self._top_k = top_k

    def __call__(self, call: ToolCall) -> ToolCall:
        """Carries out `call` and fills in its result. Bad arguments and failed searches become `call.error`."""
        started = time.perf_counter()
        query = call.arguments.get("query")
        if call.tool != self.name:
            call.error = f"unknown tool {call.tool!r}, known: {self.name}"
        elif not isinstance(query, str) or not query.strip():
            call.error = "search needs a query: a text that is not empty"
        else:
            self._search(call, query)
        call.seconds = time.perf_counter() - started
        return call

    def _search(self, call: ToolCall, query: str) -> None:
        try:
            hits = self._retriever.search([query], self._top_k)[0]
        except RetrieverError as error:
            call.error = f"the search failed: {error}"
            return
        call.document_ids = [hit.document_id for hit in hits]
        call.document_scores = [hit.score for hit in hits]
        call.result_text = "\n".join(_shown(hit) for hit in hits) if hits else "nothing found"


def _shown(hit: Hit) -> str:
    """The document as the policy reads it; the title stands in front unless the text begins with it."""
    return hit.text if hit.text.startswith(hit.title) else f"{hit.title}: {hit.text}"
