"""BM25: scores by hand, ties, odd queries, the cache on disk, threads; and the scripted retriever."""

import logging
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.data.corpus import Corpus, Document, load_corpus
from envs.data.questions import load_questions, resolve_gold_documents
from envs.errors import InputError
from envs.retrieval import bm25, bm25_index
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.build import build_retriever
from envs.search.config import RetrieverSettings

CORPUS = Corpus(
    [
        Document("d0", "mira", "mother toma"),
        Document("d1", "toma", "color red red"),
        Document("d2", "kalo", "color blue"),
    ]
)


def hits(retriever, query: str, top_k: int = 10) -> list[tuple[str, float]]:
    return [(hit.document_id, hit.score) for hit in retriever.search([query], top_k)[0]]


def test_scores_by_hand():
    # Lucene's BM25: idf = ln(1 + (N - df + 0.5) / (df + 0.5)), times tf / (tf + k1 (1 - b + b dl / avgdl)).
    # Lengths with the title: 3, 4, 3.
    def score(tf: int, df: int, length: int) -> float:
        idf = math.log(1 + (3 - df + 0.5) / (df + 0.5))
        return idf * tf / (tf + 1.5 * (0.25 + 0.75 * length / (10 / 3)))

    found = hits(BM25Retriever(CORPUS), "Red COLOR?")
    assert [document_id for document_id, _ in found] == ["d1", "d2"]
    assert found[0][1] == pytest.approx(score(2, 1, 4) + score(1, 2, 4), rel=1e-6)
    assert found[1][1] == pytest.approx(score(1, 2, 3), rel=1e-6)
    [[hit]] = BM25Retriever(CORPUS).search(["mother"], 1)
    assert (hit.title, hit.text) == ("mira", "mother toma")


def test_titles_are_searched_and_batches_keep_their_order():
    results = build_retriever(RetrieverSettings(top_k=1), list(CORPUS)).search(["kalo", "mira", "kalo"], 1)
    assert [[hit.document_id for hit in result] for result in results] == [["d2"], ["d0"], ["d2"]]


@pytest.mark.parametrize("query", ["", "   ", "?!", "unknown words only", "the of and", "x", "\ud800\x00"])
def test_queries_that_match_nothing_find_nothing(query):
    assert BM25Retriever(CORPUS).search([query, "red"], 5)[0] == []


def test_no_queries_and_bad_top_k():
    assert BM25Retriever(CORPUS).search([], 5) == []
    with pytest.raises(ValueError, match="at least 1"):
        BM25Retriever(CORPUS).search(["red"], 0)


def test_ties_are_broken_by_corpus_order():
    corpus = Corpus(Document(str(n), "", "same words" if n % 2 else "other thing") for n in range(100))
    retriever = BM25Retriever(corpus)
    assert [document_id for document_id, _ in hits(retriever, "same", 5)] == ["1", "3", "5", "7", "9"]
    assert len(hits(retriever, "same", 1000)) == 50


def test_a_corpus_without_words_is_refused():
    with pytest.raises(InputError, match="nothing to index"):
        BM25Retriever(Corpus([Document("0", "", "a . the")]))


def test_cached_index_gives_the_same_hits_and_is_mapped(tmp_path):
    fresh = BM25Retriever(CORPUS, cache=tmp_path)
    [folder] = (tmp_path / "bm25").iterdir()
    written = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = BM25Retriever(CORPUS, cache=tmp_path)
    assert hits(fresh, "color toma") == hits(again, "color toma") == hits(BM25Retriever(CORPUS), "color toma")
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == written
    assert type(again._index.scores["data"]).__name__ == "memmap"
    assert fresh.identity == again.identity
    assert fresh.identity["corpus_hash"] == CORPUS.content_hash


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.text("ab 東京都.", max_size=12) | st.sampled_from(["red", "red blue red", "the"]), min_size=1
    ),
    st.integers(1, 4),
)
def test_an_index_written_block_by_block_is_bm25s_own(texts, block):
    corpus = Corpus(Document(str(n), "", text) for n, text in enumerate(texts))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bm25_index, "BLOCK", block)
        whole, blocks = Path(folder, "whole"), Path(folder, "blocks")
        blocks.mkdir()
        try:
            bm25._build(corpus).save(whole, show_progress=False)
        except InputError as error:
            with pytest.raises(InputError, match=re.escape(str(error))):
                bm25._write(corpus, blocks)
            return
        bm25._write(corpus, blocks)
        names = sorted(file.name for file in whole.iterdir())
        assert names == sorted(file.name for file in blocks.iterdir())
        for name in names:
            assert (whole / name).read_bytes() == (blocks / name).read_bytes(), name


def test_other_corpora_get_other_cache_entries(tmp_path):
    BM25Retriever(CORPUS, cache=tmp_path)
    other = BM25Retriever(Corpus([*CORPUS, Document("d3", "suna", "color red")]), cache=tmp_path)
    assert len(list((tmp_path / "bm25").iterdir())) == 2
    assert {document_id for document_id, _ in hits(other, "red")} == {"d1", "d3"}


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_cache_is_built_again_and_said(tmp_path, caplog, damage):
    BM25Retriever(CORPUS, cache=tmp_path)
    [array] = tmp_path.glob("bm25/*/data.csc.index.npy")
    array.unlink() if damage == "remove" else array.write_bytes(array.read_bytes()[:140])
    with caplog.at_level(logging.WARNING):
        retriever = BM25Retriever(CORPUS, cache=tmp_path)
    assert "damaged" in caplog.text
    assert hits(retriever, "red") == hits(BM25Retriever(CORPUS), "red")


def test_an_unwritable_cache_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="set IGPO_CACHE to a writable folder"):
        BM25Retriever(CORPUS, cache=tmp_path / "file")


def test_searches_from_many_threads_agree():
    retriever = BM25Retriever(CORPUS)
    queries = [" ".join(words) for words in (["red"], ["color", "toma"], ["blue", "mira"], [""])] * 25
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda query: hits(retriever, query), queries))
    assert threaded == [hits(retriever, query) for query in queries]


@pytest.mark.skipif(
    "IGPO_TEST_DATA" not in os.environ, reason="IGPO_TEST_DATA (folder of real data) is not set"
)
def test_recall_on_real_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPO_CACHE", str(tmp_path))
    folder = Path(os.environ["IGPO_TEST_DATA"])
    corpus = load_corpus(folder / "wikipedia_passages.jsonl")
    questions = resolve_gold_documents(load_questions(folder / "hotpotqa_60.jsonl"), corpus)
    found = build_retriever(RetrieverSettings(), corpus).search([question.text for question in questions], 5)
    recall = [
        len({hit.document_id for hit in hits_of_one} & set(question.gold_document_ids)) / 2
        for question, hits_of_one in zip(questions, found, strict=True)
    ]
    assert sum(recall) / len(recall) == pytest.approx(0.767, abs=0.01)
    assert re.fullmatch(r"[0-9a-f]{32}", next((tmp_path / "bm25").iterdir()).name)


@given(st.data())
def test_the_best_documents_are_those_of_a_full_sort(data):
    words = ["red", "blue", "green", "toma", "mira"]
    texts = data.draw(
        st.lists(
            st.lists(st.sampled_from(words), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=200
        )
    )
    retriever = BM25Retriever(Corpus(Document(str(n), "", text) for n, text in enumerate(texts)))
    query = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=4))
    top_k = data.draw(st.integers(1, 20))
    known = [word for word in query if any(word in text.split() for text in texts)]
    scores = retriever._index.get_scores(known) if known else np.zeros(len(texts))
    expected = [
        (str(n), float(scores[n])) for n in np.argsort(-scores, kind="stable")[:top_k] if scores[n] > 0
    ]
    assert hits(retriever, " ".join(query), top_k) == expected


CHINESE = Corpus(
    [
        Document("1", "红堡", "红堡是米拉在一七一〇年建造的。"),
        Document("2", "米拉", "米拉出生于奥斯陆。"),
        Document("3", "奥斯陆", "奥斯陆是挪威的首都。"),
    ]
)


@pytest.mark.parametrize(
    ("query", "best"),
    [("红堡是谁建造的？", "1"), ("米拉出生在哪里？", "2"), ("挪威的首都是哪里？", "3"), ("水", None)],
)
def test_a_script_without_blanks_is_searched_by_pairs(query, best):
    found = hits(BM25Retriever(CHINESE), query)
    assert (found[0][0] if found else None) == best


def test_scores_of_pairs_by_hand():
    # "建造" stands once, in document 1 alone, which has 1 pair in its title and 13 in its text; the others:
    # 1 + 7 and 2 + 8.
    idf = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf / (1 + 1.5 * (0.25 + 0.75 * 14 / ((14 + 8 + 10) / 3)))
    assert hits(BM25Retriever(CHINESE), "建造") == [("1", pytest.approx(expected, rel=1e-6))]


def test_other_text_keeps_its_identity_and_its_tokens():
    # The cache's folder is the hash of the identity, which must not move for corpora that need no pairs.
    texts = ["Who built the Red Fort in 1639?", "naïve Café, Kraków — 3.14", "Россия 서울 시", "the a of", ""]
    texts.append("Empress Liu (劉皇后, personal name unknown) was an empress of the Tang dynasty of China")
    retriever = BM25Retriever(Corpus(Document(str(n), "title", text) for n, text in enumerate(texts)))
    assert list(retriever.identity["parameters"]) == ["method", "k1", "b", "pattern", "stopwords", "bm25s"]
    assert "scripts_without_blanks" in BM25Retriever(CHINESE).identity["parameters"]
    plain = bm25s.tokenize([f"title\n{text}" for text in texts], show_progress=False)
    assert {word: k for word, k in retriever._index.vocab_dict.items() if word} == plain.vocab
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(plain, show_progress=False)
    for name in ("data", "indices", "indptr"):
        assert np.array_equal(retriever._index.scores[name], index.scores[name])
    assert [document for document, _ in hits(retriever, "劉皇后")] == ["5"]


def test_a_mixed_corpus_finds_names_in_both_kinds_of_document():
    english = Document(
        "e", "Red Fort", "The Red Fort (红堡) was built by Mira Tal in the year 1710, in Oslo, it is said"
    )
    retriever = BM25Retriever(Corpus([*CHINESE, english]))
    assert {document for document, _ in hits(retriever, "红堡 built")} == {"1", "e"}
    assert [document for document, _ in hits(retriever, "Mira Tal")] == ["e"]
