"""BM25 over an in-memory corpus through bm25s, with bm25s' own tokeniser.

A document in a script without blanks between words (Chinese, Thai) is indexed by pairs of neighbouring
characters, and so are the queries. The words of any other document are bm25s' own, foreign names included.

The index is built once and cached under the hash of corpus and parameters. Later runs, and all processes of a
run, map the same files into memory. Corpus order breaks ties, so results do not depend on a sorting routine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from envs.data.corpus import Corpus, Document
from envs.data.unspaced import is_unspaced, paired
from envs.errors import InputError
from envs.retrieval.base import Hit
from envs.retrieval.bm25_index import write_index
from envs.retrieval.cache import cached_index

if TYPE_CHECKING:
    from bm25s import BM25
    from bm25s.tokenization import Tokenized

CACHED_FROM_DOCUMENTS = 2000
"""A smaller corpus is indexed in memory each time, which takes less than 0.2 s and leaves no files."""

BLOCKS = 64
"""Number of rows of the score array (see `BM25Retriever._best`)."""

_SCORING = {"method": "lucene", "k1": 1.5, "b": 0.75}
_TOKENISER = {"pattern": r"(?u)\b\w\w+\b", "stopwords": "english"}
"""bm25s' default: lower-cased words of at least two characters, no English stop words, no stemming."""
_ARGUMENTS: Any = {"token_pattern": _TOKENISER["pattern"], "stopwords": _TOKENISER["stopwords"]}


class BM25Retriever:
    """BM25 (Lucene's variant, k1 1.5, b 0.75) over titles and texts. Thread-safe.

    Args:
        corpus: the documents to search.
        cache: folder for the index; None means `cache_directory()`, and no cache for a small corpus.

    Raises:
        InputError: no document holds a word to index, or the cache cannot be written.
    """

    def __init__(self, corpus: Corpus, cache: Path | None = None):
        import bm25s

        self._corpus = corpus
        # Only where it matters, so that an index of other text keeps its place in the cache.
        pairs = any(is_unspaced(_text(document)) for document in corpus)
        self.identity: dict[str, Any] = {
            "kind": "bm25",
            "corpus_hash": corpus.content_hash,
            "documents": len(corpus),
            "parameters": {**_SCORING, **_TOKENISER, "bm25s": bm25s.__version__}
            | ({"scripts_without_blanks": "pairs of characters"} if pairs else {}),
        }
        if cache is None and len(corpus) < CACHED_FROM_DOCUMENTS:
            self._index = _build(corpus)
        else:
            self._index = cached_index(
                self.identity,
                cache,
                load=lambda folder: bm25s.BM25.load(folder, mmap=True, show_progress=False),
                write=lambda folder: _write(corpus, folder),
                damage=(OSError, ValueError, KeyError, EOFError),
            )
        self._lock = threading.Lock()
        self._scores_XX = np.zeros((BLOCKS, -(-len(corpus) // BLOCKS)), np.float32)
        """Scores of the documents in corpus order, row after row, float32; scratch space for one search."""

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """The best `top_k` (>= 1) documents that share a word with the query; ties in corpus order."""
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        return [self._search_words(_words(query), top_k) for query in queries]

    def _search_words(self, words: list[str], top_k: int) -> list[Hit]:
        word_ids = self._index.get_tokens_ids(words)
        if not word_ids:
            return []
        best_first, scores = self._best(word_ids, top_k)
        hits = []
        for index, score in zip(best_first.tolist(), scores.tolist(), strict=True):
            document = self._corpus[index]
            hits.append(Hit(document.id, document.title, document.text, score))
        return hits

    def _best(self, word_ids: list[int], top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the best documents, best first.

        Sorting a million scores, or even selecting among them, costs more than computing them. So the scores
        form an array of X rows and X columns, and each column has a maximum. At least `top_k` documents score
        as high as the `top_k`-th best of these maxima, so only the columns that reach it can hold a hit.

        With 6 documents, 2 rows and top_k 1, the scores 1 0 5 / 2 4 3 have the column maxima 2 4 5. The bound
        is 5, only the last column reaches it, and the hit is document 2.
        """
        stored = cast(dict[str, np.ndarray], self._index.scores)
        with self._lock:
            scores_XX = self._scores_XX
            scores_XX.fill(0)
            for word in word_ids:
                span = slice(stored["indptr"][word], stored["indptr"][word + 1])
                np.add.at(scores_XX.reshape(-1), stored["indices"][span], stored["data"][span])
            best_X = scores_XX.max(axis=0)
            bound = np.partition(best_X, -top_k)[-top_k] if top_k <= len(best_X) else 0
            columns = np.flatnonzero((best_X >= bound) & (best_X > 0))
            candidates = scores_XX[:, columns]
        blocks, within = np.nonzero((candidates >= bound) & (candidates > 0))
        rows, scores = blocks * len(best_X) + columns[within], candidates[blocks, within]
        best = np.lexsort((rows, -scores))[:top_k]
        return rows[best], scores[best]


def _words(query: str) -> list[str]:
    """The words of a query as a document in its script has them, and after them those that only other
    documents have: `東京都` is 東京 and 京都 in Japanese text, and one word in an English passage.
    """
    import bm25s

    as_pairs, as_written = cast(
        list[list[str]],
        bm25s.tokenize([paired(query), query], **_ARGUMENTS, return_ids=False, show_progress=False),
    )
    return as_pairs + [word for word in as_written if word not in as_pairs]


def _text(document: Document) -> str:
    return f"{document.title}\n{document.text}"


def _texts(corpus: Corpus) -> Iterator[str]:
    """What each document is searched by."""
    for text in map(_text, corpus):
        yield paired(text) if is_unspaced(text) else text


def _build(corpus: Corpus) -> BM25:
    """Indexes titles and texts in memory."""
    import bm25s

    tokenised = bm25s.tokenize(list(_texts(corpus)), **_ARGUMENTS, show_progress=False)
    if not cast("Tokenized", tokenised).vocab:
        raise _no_words(corpus)
    index = bm25s.BM25(**_SCORING)
    index.index(tokenised, show_progress=False)
    return index


def _write(corpus: Corpus, folder: Path) -> None:
    """Indexes titles and texts on disk: the same index."""
    import bm25s

    index = bm25s.BM25(**_SCORING)
    if not write_index(_texts(corpus), len(corpus), index, _ARGUMENTS, folder):
        raise _no_words(corpus)


def _no_words(corpus: Corpus) -> InputError:
    return InputError(
        f"{corpus.source}: no document holds a word of two or more letters, so BM25 has nothing to index"
    )
