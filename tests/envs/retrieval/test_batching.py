"""Queries that wait become one search, and every caller gets its own hits, or the search's error."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from envs.data.corpus import Corpus, Document
from envs.retrieval import batching
from envs.retrieval.base import Hit, RetrieverError
from envs.retrieval.batching import BatchingRetriever
from envs.retrieval.bm25 import BM25Retriever


class Slow:
    """Waits for `go` in its first search; notes the queries of each search."""

    identity = {"kind": "slow"}

    def __init__(self):
        self.go, self.began, self.searches = threading.Event(), threading.Event(), []

    def search(self, queries, top_k):
        self.searches.append((list(queries), top_k))
        self.began.set()
        self.go.wait(10)
        if "bad" in queries:
            raise RetrieverError("down")
        return [[Hit(f"{query}{k}", "", "", 1.0) for k in range(top_k)] for query in queries]


def waiting(retriever, slow, calls):
    """The futures of `calls`, all of which wait while the first search is under way."""
    pool = ThreadPoolExecutor(len(calls) + 1)
    first = pool.submit(retriever.search, ["first"], 1)
    assert slow.began.wait(10)
    futures = []
    for number, call in enumerate(calls, start=1):
        futures.append(pool.submit(retriever.search, *call))
        while len(retriever._waiting) < number:
            pass
    slow.go.set()
    assert [hit.document_id for hit in first.result()[0]] == ["first0"]
    pool.shutdown()
    return futures


def test_calls_that_wait_are_one_search_and_keep_their_own_hits():
    slow = Slow()
    futures = waiting(BatchingRetriever(slow), slow, [(["a"], 2), (["b", "c"], 2), (["d"], 1), ([], 2)])
    assert slow.searches == [(["first"], 1), (["a", "b", "c"], 2), (["d"], 1)]
    found = [[[hit.document_id for hit in hits] for hits in future.result()] for future in futures]
    assert found == [[["a0", "a1"]], [["b0", "b1"], ["c0", "c1"]], [["d0"]], []]


def test_a_search_holds_no_more_queries_than_it_may(monkeypatch):
    monkeypatch.setattr(batching, "MOST_QUERIES", 3)
    slow = Slow()
    waiting(BatchingRetriever(slow), slow, [(["a", "b"], 1), (["c", "d"], 1), (["e"], 1), (list("fghi"), 1)])
    assert [queries for queries, _ in slow.searches] == [["first"], ["a", "b", "e"], ["c", "d"], list("fghi")]


def test_an_error_reaches_all_that_waited_for_it_and_the_next_search_works():
    slow = Slow()
    retriever = BatchingRetriever(slow)
    for future in waiting(retriever, slow, [(["a"], 1), (["bad"], 1)]):
        with pytest.raises(RetrieverError, match="down"):
            future.result()
    assert retriever.search(["c"], 1)[0][0].document_id == "c0" and retriever.identity == {"kind": "slow"}


def test_the_hits_are_those_of_the_retriever_itself():
    corpus = Corpus([Document(str(n), f"t{n}", f"word{n % 7} common text{n}") for n in range(50)])
    plain = BM25Retriever(corpus)
    batched = BatchingRetriever(plain)
    queries = [f"word{n % 7} text{n}" for n in range(40)]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda query: batched.search([query], 3)[0], queries))
    assert found == [plain.search([query], 3)[0] for query in queries]
