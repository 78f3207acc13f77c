"""From settings to a retriever."""

from __future__ import annotations

from collections.abc import Iterable

from envs.data.corpus import Corpus, Document
from envs.retrieval.base import Retriever
from envs.retrieval.bm25 import BM25Retriever
from envs.search.config import RetrieverSettings


def build_retriever(settings: RetrieverSettings, documents: Corpus | Iterable[Document]) -> Retriever:
    """The retriever that `settings.kind` names, over `documents`; `settings.top_k` is for the caller of `search`."""
    corpus = documents if isinstance(documents, Corpus) else Corpus(documents)
    match settings.kind:
        case "bm25":
            return BM25Retriever(corpus)
