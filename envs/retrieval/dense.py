"""Dense retrieval through faiss: finds the passages whose embeddings are nearest to the query's.

The index is built once and cached under the hash of corpus, encoder and parameters. Later runs, and all
processes of a run, map the same file into memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.data.corpus import Corpus
from envs.errors import InputError
from envs.retrieval.base import Hit
from envs.retrieval.cache import cached_index
from envs.retrieval.config import DenseSettings
from envs.retrieval.encoder import NEEDS_EXTRA, Encoder

if TYPE_CHECKING:
    import faiss

HNSW_NEIGHBOURS = 32
HNSW_SEARCH = 128
"""Number of candidates that a search keeps (efSearch), at least `top_k`."""
HNSW_BUILD = 200
PASSAGES_PER_CHUNK = 1024
"""Number of passages to encode before their vectors enter the index; limits memory and progress steps."""


class DenseRetriever:
    """Cosine similarity of title and text with the query. Thread-safe.

    Every query finds `top_k` passages, however distant. `flat` compares with all passages and is exact.
    `hnsw` walks a graph; building it in parallel is not deterministic, so near ties may differ between
    machines.

    Args:
        corpus: the documents to search.
        settings: encoder and index.
        cache: folder for the index; None means `cache_directory()`.

    Raises:
        InputError: the extra `dense` is not installed, or the encoder does not exist.
    """

    def __init__(self, corpus: Corpus, settings: DenseSettings, cache: Path | None = None):
        self._encoder = Encoder(settings)
        faiss = _import_faiss()
        self._corpus = corpus
        parameters: dict[str, Any] = {"index": settings.index}
        if settings.index == "hnsw":
            parameters |= {"neighbours": HNSW_NEIGHBOURS, "build": HNSW_BUILD, "search": HNSW_SEARCH}
        self.identity: dict[str, Any] = {
            "kind": "dense",
            "corpus_hash": corpus.content_hash,
            "documents": len(corpus),
            "encoder": self._encoder.identity,
            "parameters": parameters,
        }
        self._index = cached_index(
            self.identity,
            cache,
            load=lambda folder: faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC),
            write=lambda folder: faiss.write_index(self._build(settings), str(folder / "index.faiss")),
            damage=(RuntimeError,),
        )

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """The `top_k` (>= 1) nearest documents per query, best first. The score is the cosine."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if not queries:
            return []
        vectors_XH = self._encoder.queries(queries)
        scores_XX, rows_XX = search_index(self._index, vectors_XH, top_k)
        return [
            [self._hit(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in zip(rows_XX.tolist(), scores_XX.tolist(), strict=True)
        ]

    def _hit(self, row: int, score: float) -> Hit:
        document = self._corpus[row]
        return Hit(document.id, document.title, document.text, score)

    def _build(self, settings: DenseSettings) -> faiss.Index:
        from rich.console import Console
        from rich.progress import track

        index = empty_index(settings.index, self._encoder.dimensions)
        starts = range(0, len(self._corpus), PASSAGES_PER_CHUNK)
        console = Console(stderr=True)
        for start in track(starts, "embedding passages", console=console, disable=not console.is_terminal):
            chunk = self._corpus[start : start + PASSAGES_PER_CHUNK]
            index.add(
                self._encoder.passages([f"{document.title}\n{document.text}".strip() for document in chunk])
            )
        return index


def empty_index(kind: str, dimensions: int) -> faiss.Index:
    """An empty faiss index over unit vectors, by inner product.

    Args:
        kind: "flat" or "hnsw".
        dimensions: length of the vectors.
    """
    faiss = _import_faiss()
    if kind == "flat":
        return faiss.IndexFlatIP(dimensions)
    index = faiss.IndexHNSWFlat(dimensions, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_BUILD
    return index


def search_index(index: faiss.Index, vectors_XH: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Searches an index with several queries, X of them.

    efSearch is passed with each search, because threads would share the value that faiss keeps in the index.

    Returns:
        Scores and rows, both [X, `top_k`], best first; row -1 where the index holds fewer vectors.
    """
    faiss = _import_faiss()
    is_graph = isinstance(index, faiss.IndexHNSW)
    parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_SEARCH, top_k)) if is_graph else None
    return index.search(vectors_XH, top_k, params=parameters)


def _import_faiss():
    try:
        import faiss
    except ImportError as error:
        raise InputError(NEEDS_EXTRA) from error
    return faiss
