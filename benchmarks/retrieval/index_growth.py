"""Measures an index as the corpus grows: memory, seconds to build, to open, and for a batch of 128 queries.

    python -m benchmarks.retrieval.index_growth              # 10k, 100k and 1M passages, BM25; minutes
    python -m benchmarks.retrieval.index_growth --passages 5000000      # and half an hour
    python -m benchmarks.retrieval.index_growth --kind hnsw  # random unit vectors of 384 dimensions

Passages have 100 words drawn by Zipf's law from 200,000, as English has them, less the 30 commonest (stop
words are not indexed); queries have 6. Each size runs in a process of its own, so that its memory (corpus
included) is its own: `own GiB` is the peak of what the process holds, `peak GiB` counts the mapped index too,
whose pages the system takes back where it needs them. For `flat` and `hnsw` the vector index alone is
measured: an encoder's cost per passage does not depend on how many there are. Seconds are wall-clock; those
in brackets are the process's own CPU time, which other work on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

WORDS = 200_000
STOP_WORDS = 30
WORDS_PER_PASSAGE = 100
WORDS_PER_QUERY = 6
QUERIES = 128
TOP_K = 5
DIMENSIONS = 384
REPEATS = 5
CHUNK = 10_000
T = TypeVar("T")


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` words, the r-th commonest with a probability proportional to 1/r."""
    ranks = (STOP_WORDS * np.exp(rng.random(count) * np.log(WORDS / STOP_WORDS))).astype(np.int64)
    return _all_words()[ranks]


@cache
def _all_words() -> np.ndarray:
    return np.array([f"w{rank}" for rank in range(WORDS)], object)


def texts(rng: np.random.Generator, passages: int) -> Iterator[str]:
    for start in range(0, passages, CHUNK):
        count = min(CHUNK, passages - start)
        for passage in words(rng, count * WORDS_PER_PASSAGE).reshape(count, -1).tolist():
            yield " ".join(passage)


def measure_bm25(passages: int, folder: Path) -> dict[str, tuple[float, float]]:
    from envs.data.corpus import Corpus, Document
    from envs.retrieval.bm25 import BM25Retriever

    rng = np.random.default_rng(0)
    corpus = Corpus(Document(str(n), f"t{n}", text) for n, text in enumerate(texts(rng, passages)))
    build, _ = timed(lambda: BM25Retriever(corpus, cache=folder))
    open_, retriever = timed(lambda: BM25Retriever(corpus, cache=folder))
    queries: list[str] = [" ".join(words(rng, WORDS_PER_QUERY)) for _ in range(QUERIES)]
    return {
        "build": build,
        "open": open_,
        "batch": best_seconds(lambda: retriever.search(queries, TOP_K)),
        "one": best_seconds(lambda: retriever.search(queries[:1], TOP_K)),
    }


def measure_vectors(kind: str, passages: int, folder: Path) -> dict[str, tuple[float, float]]:
    import faiss

    from envs.retrieval.dense import empty_index, search_index

    rng = np.random.default_rng(0)
    index, file = empty_index(kind, DIMENSIONS), str(folder / "index.faiss")
    build, _ = timed(
        lambda: [
            index.add(unit_vectors(rng, min(CHUNK, passages - start))) for start in range(0, passages, CHUNK)
        ]
    )
    faiss.write_index(index, file)
    open_, opened = timed(lambda: faiss.read_index(file, faiss.IO_FLAG_MMAP_IFC))
    queries = unit_vectors(rng, QUERIES)
    return {
        "build": build,
        "open": open_,
        "batch": best_seconds(lambda: search_index(opened, queries, TOP_K)),
        "one": best_seconds(lambda: search_index(opened, queries[:1], TOP_K)),
    }


def unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(function: Callable[[], T]) -> tuple[tuple[float, float], T]:
    """Wall-clock and CPU seconds of a call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return (time.perf_counter() - wall, time.process_time() - cpu), result


def best_seconds(function: Callable) -> tuple[float, float]:
    """Least wall-clock and least CPU seconds of a few calls."""
    walls, cpus = zip(*(timed(function)[0] for _ in range(REPEATS)), strict=True)
    return min(walls), min(cpus)


def one_size(kind: str, passages: int) -> dict:
    own_gib, ended = [0.0], threading.Event()
    threading.Thread(target=watch_memory, args=(own_gib, ended), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        measured: dict = dict(
            measure_bm25(passages, path) if kind == "bm25" else measure_vectors(kind, passages, path)
        )
        measured["index_gib"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 2**30
    ended.set()
    measured["own_gib"] = own_gib[0]
    measured["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return measured


def watch_memory(peak_gib: list[float], ended: threading.Event) -> None:
    """Keeps the largest memory that this process held of its own, files that it maps apart."""
    while not ended.wait(0.2):
        found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        peak_gib[0] = max(peak_gib[0], int(found[1]) / 2**20 if found else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("bm25", "flat", "hnsw"), default="bm25")
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_size(args.kind, args.passages[0])))
        return
    print(f"{args.kind}: batches of {QUERIES} queries, top {TOP_K}, best of {REPEATS}; wall-clock (CPU)")
    print(
        f"{'passages':>10} {'build s':>17} {'open s':>15} {'batch ms':>15} {'one query ms':>15} "
        f"{'index GiB':>10} {'own GiB':>9} {'peak GiB':>9}"
    )
    for passages in args.passages:
        command = [
            sys.executable,
            "-m",
            "benchmarks.retrieval.index_growth",
            "--one",
            "--kind",
            args.kind,
            "--passages",
            str(passages),
        ]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        m = json.loads(result.stdout.splitlines()[-1])
        print(
            f"{passages:>10,} {pair(m['build'], 1):>17} {pair(m['open'], 1):>15} "
            f"{pair(m['batch'], 1000):>15} {pair(m['one'], 1000):>15} {m['index_gib']:10.2f} "
            f"{m['own_gib']:9.2f} {m['peak_gib']:9.2f}",
            flush=True,
        )


def pair(seconds: tuple[float, float], unit: int) -> str:
    wall, cpu = seconds
    return f"{wall * unit:.1f} ({cpu * unit:.1f})"


if __name__ == "__main__":
    main()
