"""The built-in tools `search`, `open` and `calculator`, and a user's own."""

from __future__ import annotations

import functools
import inspect
import logging
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Annotated, Any

from pydantic import Field

from envs.data.corpus import Corpus
from envs.errors import InputError
from envs.retrieval.base import Hit, PricedHits, Retriever, RetrieverError
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.dense import DenseRetriever
from envs.retrieval.hybrid import HybridRetriever
from envs.search.config import SearchEnvSettings
from envs.search.tools.base import Tool, Toolbox, ToolError, ToolFailure, ToolResult, as_result
from envs.search.tools.calculator import evaluate
from envs.user_code import import_function

logger = logging.getLogger(__name__)

MAX_QUERIES = 16
"""Limit on the queries of one `search` call."""
AT_ONCE_DOCUMENTS = 100_000
"""BM25 searches this many documents in 0.2 ms (benchmarks/README.md), as long as starting a thread takes."""
REMEMBERED_SEARCHES = 16384
"""Number of search results to keep, because the rollouts of a group and of later iterations repeat queries.
"""
REMEMBERED = BM25Retriever, DenseRetriever, HybridRetriever
"""Retrievers whose results are kept: a server's may change, and a user's own may do more than search."""
PAGE_CHARACTERS_PER_TOKEN = 3
"""Makes a page of `open` fit into an observation; English has about four characters per token."""


def build_toolbox(
    settings: SearchEnvSettings, retriever: Callable[[], Retriever], corpus: Corpus | None
) -> Toolbox:
    """Builds the tools that `settings.tools` names.

    Args:
        settings: the environment's settings.
        retriever: returns the retriever; called at the first search.
        corpus: the documents for `open`; None where only a server has them.

    Raises:
        InputError: a tool is unknown, or a user's tool cannot be imported or lacks types.
    """
    return Toolbox(
        [_build(name, settings, retriever, corpus) for name in settings.tools], settings.tool_timeout
    )


def _build(
    name: str, settings: SearchEnvSettings, retriever: Callable[[], Retriever], corpus: Corpus | None
) -> Tool:
    match name:
        case "search":
            return search_tool(retriever, settings.retriever.top_k, show_ids="open" in settings.tools)
        case "open" if corpus is not None:
            return open_tool(corpus, PAGE_CHARACTERS_PER_TOKEN * settings.max_observation_tokens)
        case "calculator":
            return Tool(calculator, "calculator")
        case _ if ":" in name:
            function = import_function(name, "tool")
            if not isinstance(function, FunctionType) or inspect.iscoroutinefunction(function):
                raise InputError(
                    f"tool {name!r} must be a plain function (`def`): calls run in threads of their own"
                )
            return user_tool(function)
    raise InputError(
        f"unknown tool {name!r}. Known: search, open, calculator, or `module:function` for your own"
    )


def search_tool(retriever: Callable[[], Retriever], top_k: int, *, show_ids: bool = False) -> Tool:
    """The tool `search`, which shows the best `top_k` documents.

    Args:
        retriever: returns the retriever; called at the first search.
        top_k: documents per query.
        show_ids: whether to put its id in front of each document, for `open`.
    """

    def is_quick() -> bool:
        opened = retriever()
        return isinstance(opened, BM25Retriever) and opened.identity["documents"] <= AT_ONCE_DOCUMENTS

    def answer(wanted: tuple[str, ...]) -> ToolResult:
        try:
            found = retriever().search(list(wanted), top_k)
        except RetrieverError as error:
            raise ToolFailure(f"the search failed: {error}") from error
        shown = ["\n".join(_shown(hit, show_ids) for hit in hits) or "nothing found" for hits in found]
        if len(wanted) > 1:
            shown = [f"{text}:\n{documents}" for text, documents in zip(wanted, shown, strict=True)]
        return ToolResult(
            "\n\n".join(shown),
            document_ids=[hit.document_id for hits in found for hit in hits],
            document_scores=[hit.score for hits in found for hit in hits],
            credits=found.credits if isinstance(found, PricedHits) else 0.0,
        )

    remembered = functools.lru_cache(REMEMBERED_SEARCHES)(answer)

    def search(
        query: Annotated[str, Field(description="what to look for")] = "",
        queries: Annotated[
            tuple[str, ...], Field(description="several things to look for at once", max_length=MAX_QUERIES)
        ] = (),
    ) -> ToolResult:
        """Search the documents. Give `query`, or `queries`."""
        wanted = tuple(filter(None, map(str.strip, (query, *queries))))
        if not wanted:
            raise ToolError("search needs a query: a text that is not empty")
        return remembered(wanted) if isinstance(retriever(), REMEMBERED) else answer(wanted)

    return Tool(search, "search", at_once=is_quick)


def searched_text(arguments: dict[str, Any]) -> str | None:
    """The queries of a `search` call, one per line, for the log; None where it has none."""
    query, queries = arguments.get("query"), arguments.get("queries")
    texts = [query, *queries] if isinstance(queries, list) else [query]
    return "\n".join([text for text in texts if isinstance(text, str) and text]) or None


def open_tool(corpus: Corpus, page_characters: int) -> Tool:
    """The tool `open`, which shows a document of `corpus` in pages of at most `page_characters`."""

    def open_document(
        document_id: Annotated[str, Field(description="the id that stands in front of a search result")],
        page: Annotated[int, Field(description="from 1", ge=1)] = 1,
    ) -> ToolResult:
        """Read one document, a page at a time."""
        try:
            document = corpus.by_id(document_id)
        except KeyError as error:
            raise ToolError(f"no document has the id {document_id!r}") from error
        pages = textwrap.wrap(document.text, page_characters, replace_whitespace=False) or [""]
        if page > len(pages):
            raise ToolError(f"document {document_id!r} ends with page {len(pages)}")
        return ToolResult(
            f"{document.title} (page {page} of {len(pages)})\n{pages[page - 1]}".strip(), [document.id]
        )

    return Tool(open_document, "open")


def calculator(expression: Annotated[str, Field(description="such as (1884 + 3) * 2")]) -> str:
    """Compute an arithmetic expression."""
    try:
        return str(evaluate(expression))
    except ValueError as error:
        raise ToolError(f"calculator: {error}") from error


def user_tool(function: FunctionType) -> Tool:
    """Makes a tool of a user's function.

    An exception becomes a `ToolFailure`, which the policy sees; its traceback goes to the log. The same holds
    for a result that cannot be shown and for an attempt to end the process. `ToolError` passes unchanged.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> ToolResult:
        try:
            return as_result(function(*args, **kwargs))
        except ToolError:
            raise
        except (Exception, SystemExit) as error:
            logger.warning("the tool %s failed", function.__name__, exc_info=True)
            raise ToolFailure(f"{function.__name__} failed: {type(error).__name__}: {error}") from error

    return Tool(guarded, function.__name__)


def _shown(hit: Hit, show_id: bool) -> str:
    """The document as the policy reads it, with its title in front unless the text begins with it."""
    text = hit.text if hit.text.startswith(hit.title) else f"{hit.title}: {hit.text}"
    return f"[{hit.document_id}] {text}" if show_id else text
