"""A retriever of one's own, named by import path: made once per process, its answers checked."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import numpy as np

from envs.data.corpus import Corpus
from envs.errors import InputError
from envs.retrieval.base import Hit, PricedHits, RetrieverError
from envs.user_code import code_hash, import_function

logger = logging.getLogger(__name__)


class OwnRetriever:
    """Calls the retriever that `path` makes.

    `path` names a class or function of the corpus (None where `corpus` is `remote`) and `arguments`. What it
    returns has a method `search(queries, top_k)`, which may be called from several threads at once. It
    returns a list for each query, best first, of `Hit`s, of ids of the corpus, or of pairs (id, score).

    Whatever `search` raises is shown to the policy and counts as a failed search.

    Args:
        path: `module:function`.
        arguments: keyword arguments.
        corpus: the documents.

    Raises:
        InputError: it cannot be imported or made, or has no `search`.
    """

    def __init__(self, path: str, arguments: dict[str, Any], corpus: Corpus | None):
        make = import_function(path, "retriever")
        self._path, self._corpus = path, corpus
        try:
            self._own = make(corpus, **arguments)
        except InputError:
            raise
        except Exception as error:  # a user's own code may fail in any way
            raise InputError(
                f"retriever {path!r} can't be made: {type(error).__name__}: {error}; it is called with the "
                "corpus and `arguments`"
            ) from error
        if not callable(getattr(self._own, "search", None)):
            raise InputError(
                f"retriever {path!r} made {type(self._own).__name__}, which has no method "
                "`search(queries, top_k)`"
            )
        own: Any = getattr(self._own, "identity", {})
        own = own() if callable(own) else own
        self.identity: dict[str, Any] = {"kind": path, "arguments": arguments, "code": code_hash(path)}
        if corpus is not None:
            self.identity |= {"corpus_hash": corpus.content_hash, "documents": len(corpus)}
        try:
            self.identity |= json.loads(json.dumps(dict(own)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"retriever {path!r}: its `identity` must be a dict that JSON can hold"
            ) from error

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """Searches for each query.

        Raises:
            RetrieverError: the search failed.
            InputError: it returned something else than at most `top_k` hits for each query.
        """
        try:
            found = self._own.search(list(queries), top_k)
        except (RetrieverError, InputError):
            raise
        except Exception as error:
            logger.warning("the retriever %s failed", self._path, exc_info=True)
            raise RetrieverError(f"{self._path} failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, list | tuple) or len(found) != len(queries):
            shown = f"{len(found)} lists" if isinstance(found, list | tuple) else type(found).__name__
            raise InputError(
                f"retriever {self._path!r}: `search` returned {shown} for {len(queries)} queries; return a "
                "list of hits for each"
            )
        hits = [self._hits(of_query, top_k) for of_query in found]
        return PricedHits(hits, found.credits) if isinstance(found, PricedHits) else hits

    def _hits(self, found: Any, top_k: int) -> list[Hit]:
        if not isinstance(found, list | tuple):
            raise InputError(
                f"retriever {self._path!r}: the hits of a query are {type(found).__name__}; return a list"
            )
        if len(found) > top_k:
            raise InputError(
                f"retriever {self._path!r} returned {len(found)} documents where top_k is {top_k}"
            )
        return [self._hit(one, 1 / rank) for rank, one in enumerate(found, 1)]

    def _hit(self, found: Any, score: float) -> Hit:
        if isinstance(found, Hit):
            texts = (found.document_id, found.title, found.text)
            is_number = isinstance(found.score, int | float | np.number) and math.isfinite(found.score)
            if not (is_number and all(isinstance(text, str) for text in texts)):
                raise InputError(
                    f"retriever {self._path!r} returned {str(found)[:120]}: id, title and text of a hit are "
                    "texts, its score a finite number"
                )
            return found
        document_id = found
        if isinstance(found, tuple) and len(found) == 2:
            document_id, score = found
        try:
            assert self._corpus is not None
            document = self._corpus.by_id(document_id)
            return Hit(document.id, document.title, document.text, float(score))
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            there = "no document of the corpus has this id" if self._corpus else "there is no corpus here"
            raise InputError(
                f"retriever {self._path!r} returned {str(found)[:60]!r} for a document, and {there}; return "
                "`envs.retrieval.base.Hit`, an id, or (id, score)"
            ) from error
