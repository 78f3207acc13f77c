"""Writes a BM25 index as bm25s reads it, in memory that does not grow with the postings.

Documents are tokenised a block at a time. What a block says (which word occurs where, and how often) waits on
disk until the words of all documents are counted; then its scores go to their places in the mapped arrays.
The index is the one that bm25s would build of all documents at once, byte for byte: 6 GiB for a million
passages there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np

BLOCK = 50_000
"""Documents that are tokenised at a time: some 400 MiB for passages of 100 words."""


@dataclass
class _Block:
    """The postings of a block, by word and in a word by document: P of U words."""

    words_U: np.ndarray
    counts_U: np.ndarray
    """Documents of the block with each word."""
    file: Path
    """Rows P of the index's documents, then how often the word occurs there."""
    postings: int


@dataclass
class _Counted:
    """What all blocks hold."""

    vocabulary: dict[str, int] = field(default_factory=dict)
    lengths: list[np.ndarray] = field(default_factory=list)
    """Words of each document, block by block."""
    blocks: list[_Block] = field(default_factory=list)

    def frequencies_V(self) -> np.ndarray:
        """Documents with each word of the vocabulary."""
        frequencies_V = np.zeros(len(self.vocabulary), np.int64)
        for block in self.blocks:
            frequencies_V[block.words_U] += block.counts_U
        return frequencies_V


def write_index(
    texts: Iterable[str], documents: int, index: Any, arguments: dict[str, Any], folder: Path
) -> bool:
    """Writes the index of `texts` into `folder`. Shows progress bars on a terminal.

    Args:
        texts: what each document is searched by.
        documents: how many there are.
        index: a `bm25s.BM25` of Lucene's variant, whose settings hold; it is left without scores.
        arguments: of `bm25s.tokenize`.
        folder: where `bm25s.BM25.load` will look.

    Returns:
        Whether any text holds a word; if none, nothing is written.
    """
    with TemporaryDirectory(dir=folder) as scratch:
        blocks = _tracked(_blocks(texts), "reading words", documents)
        counted = _count(blocks, arguments, Path(scratch))
        if not counted.vocabulary:
            return False
        _write_arrays(counted, index, folder)
    return True


def _count(blocks: Iterable[list[str]], arguments: dict[str, Any], scratch: Path) -> _Counted:
    """Counts the words of all documents, and leaves their postings in `scratch`."""
    import bm25s

    counted = _Counted()
    documents = 0
    for number, block in enumerate(blocks):
        tokenised = cast(Any, bm25s.tokenize(block, **arguments, show_progress=False))
        vocabulary = counted.vocabulary
        to_all_W = np.array([vocabulary.setdefault(w, len(vocabulary)) for w in tokenised.vocab], np.int64)
        lengths_D = np.fromiter(map(len, tokenised.ids), np.int64, len(block))
        counted.lengths.append(lengths_D)
        words_T = np.fromiter((w for ids in tokenised.ids for w in ids), np.int64, lengths_D.sum())
        del tokenised
        rows_T = np.repeat(np.arange(len(block)), lengths_D)
        # A word and a row in one number: sorted, each run of equal ones is a posting.
        postings_P, often_P = np.unique(to_all_W[words_T] * BLOCK + rows_T, return_counts=True)
        words_U, counts_U = np.unique(postings_P // BLOCK, return_counts=True)
        file = scratch / f"{number}.npy"
        np.save(file, np.stack([postings_P % BLOCK + documents, often_P]).astype(np.int32))
        counted.blocks.append(_Block(words_U, counts_U, file, len(postings_P)))
        documents += len(block)
    return counted


def _write_arrays(counted: _Counted, index: Any, folder: Path) -> None:
    """The three arrays of the index, and vocabulary and settings as bm25s writes them."""
    lengths_D = np.concatenate(counted.lengths)
    frequencies_V = counted.frequencies_V()
    documents, average = len(lengths_D), lengths_D.mean()
    # As bm25s computes them, whose numbers are rounded to float32 in the same places.
    idf_V = np.array(
        [math.log(1 + (documents - df + 0.5) / (df + 0.5)) for df in frequencies_V.tolist()], np.float32
    )
    damping_D = index.k1 * ((1 - index.b) + index.b * lengths_D / average)
    starts_V = np.concatenate([[0], np.cumsum(frequencies_V)])

    if "" not in (vocabulary := counted.vocabulary):
        vocabulary[""] = len(vocabulary)
    index.vocab_dict = vocabulary
    empty = np.zeros(0, np.float32)
    index.scores = {"data": empty, "indices": empty, "indptr": starts_V, "num_docs": documents}
    index.nonoccurrence_array = None  # which Lucene's variant does not have
    index.save(folder, show_progress=False)

    def array(name: str, kind: Any) -> Any:
        path = folder / f"{name}.csc.index.npy"
        return np.lib.format.open_memmap(path, "w+", dtype=kind, shape=(int(starts_V[-1]),))

    data_N, rows_N = array("data", np.float32), array("indices", np.int32)
    free_V = starts_V[:-1].copy()
    """Where the next posting of each word goes."""
    for block in _tracked(counted.blocks, "writing the index", documents):
        rows_P, often_P = np.load(block.file)
        words_P = np.repeat(block.words_U, block.counts_U)
        before_P = np.repeat(np.cumsum(block.counts_U) - block.counts_U, block.counts_U)
        places_P = free_V[words_P] + np.arange(block.postings) - before_P
        data_N[places_P] = idf_V[words_P] * (often_P / (damping_D[rows_P] + often_P))
        rows_N[places_P] = rows_P
        free_V[block.words_U] += block.counts_U
        block.file.unlink()
    data_N.flush()
    rows_N.flush()


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    left = iter(texts)
    while block := list(islice(left, BLOCK)):
        yield block


def _tracked(blocks: Iterable[Any], what: str, documents: int) -> Iterable[Any]:
    """The blocks of all documents, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(blocks, what, total=-(-documents // BLOCK), console=console, disable=not console.is_terminal)
