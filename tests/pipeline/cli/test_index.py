"""`igpo data index`: the index is there when a run or a server asks for it."""

import json

import pytest
from typer.testing import CliRunner

import envs.retrieval.bm25
from envs.data.corpus import load_corpus
from envs.retrieval.bm25 import BM25Retriever
from pipeline.cli.igpo import app


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("envs.retrieval.bm25.CACHED_FROM_DOCUMENTS", 10)
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"id": n, "contents": f"word{n} common"}) + "\n" for n in range(20)))
    return path


def test_an_index_that_is_built_ahead_is_opened_not_built(corpus, monkeypatch):
    result = CliRunner().invoke(app, ["data", "index", str(corpus)])
    assert result.exit_code == 0 and "20 documents, bm25: built in" in result.output, result.output
    assert result.output.rstrip().endswith(f" GiB; kept in {corpus.parent / 'cache'}")

    def build(corpus):
        raise AssertionError("it is there already")

    monkeypatch.setattr(envs.retrieval.bm25, "_build", build)
    assert BM25Retriever(load_corpus(corpus)).search(["word7"], 1)[0][0].document_id == "7"


def test_a_small_corpus_says_that_nothing_is_kept(corpus, tmp_path):
    corpus.write_text('{"id": 1, "contents": "a word"}\n')
    result = CliRunner().invoke(app, ["data", "index", str(corpus)])
    assert result.exit_code == 0 and "nothing is kept: a corpus of fewer than 10 documents" in result.output
    assert "cache" not in result.output and "1 documents, bm25: built in" in result.output
    assert not (tmp_path / "cache").exists()


def test_a_dense_index_needs_an_encoder(corpus):
    result = CliRunner().invoke(app, ["data", "index", str(corpus), "--kind", "dense"])
    assert result.exit_code == 2 and "--kind dense needs an encoder" in result.output
