"""Builds a retriever from its settings."""

from __future__ import annotations

from collections.abc import Iterable

from envs.data.corpus import Corpus, Document
from envs.errors import InputError
from envs.retrieval.base import Retriever
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.config import DenseSettings, HTTPSettings, RetrieverSettings, WebSettings


def build_retriever(settings: RetrieverSettings, documents: Corpus | Iterable[Document] | None) -> Retriever:
    """Builds the retriever that `settings.kind` names.

    Args:
        settings: the retriever's settings.
        documents: the documents to search; None where only a server has them. For `http`, a copy of the
            server's documents.

    Raises:
        InputError: documents, an encoder, the extra `dense` or a key is missing, or a retriever of one's own
            cannot be imported or made.
    """
    corpus = documents if documents is None or isinstance(documents, Corpus) else Corpus(documents)
    match settings.kind:
        case "http":
            from envs.retrieval.remote.http import HTTPRetriever

            return HTTPRetriever(settings.http or HTTPSettings(), corpus)
        case "web":
            from envs.retrieval.remote.web import WebRetriever

            return WebRetriever(settings.web or WebSettings())
    if settings.is_own:
        from envs.retrieval.own import OwnRetriever

        return OwnRetriever(settings.kind, settings.arguments, corpus)
    if corpus is None:
        raise InputError(
            f"retriever `{settings.kind}` needs a corpus to search: a JSONL file of id, contents"
        )
    match settings.kind:
        case "bm25":
            return BM25Retriever(corpus)
        case "dense":
            return _dense(corpus, settings.dense)
        case "hybrid":
            from envs.retrieval.hybrid import HybridRetriever

            return HybridRetriever([BM25Retriever(corpus), _dense(corpus, settings.dense)])
    raise InputError(f"retriever `{settings.kind}` is unknown")


def _dense(corpus: Corpus, settings: DenseSettings | None) -> Retriever:
    from envs.retrieval.dense import DenseRetriever

    if settings is None:
        raise InputError("retrievers `dense` and `hybrid` need an encoder: `dense: {encoder: FOLDER}`")
    return DenseRetriever(corpus, settings)
