"""The transformers engine against a plain forward, and against the vLLM engine where both run."""

import numpy as np
import pytest
import torch
from random_llama import plain_logp, pushed_weights, random_contexts, random_llama, results_of

from envs.engine.base import EngineSettings, Generate, Generated, ScoreAnswer
from envs.engine.build import _say_slow, build_engine, build_engines

STOP = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    model = random_llama(num_key_value_heads=1)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, str(folder)


def make_engine(model, kind="transformers", **settings):
    settings = EngineSettings(kind=kind, kv_cache_gib=0.25, **settings)
    engine = build_engine(model[1], settings, max_model_len=256, dtype="float32")
    engine.load_weights(pushed_weights(model[0]), version=3)
    return engine


def generates(count, **changes):
    lengths = np.random.default_rng(1).integers(1, 20, count)
    return [
        Generate(f"g{k}", context, int(length), [STOP], 1.0, k, **changes)
        for k, (context, length) in enumerate(zip(random_contexts(count, shortest=1), lengths, strict=True))
    ]


@pytest.mark.parametrize("built_for", ["cuda", "mps"])
def test_a_build_for_an_accelerator_runs_on_a_machine_without(model, monkeypatch, built_for):
    """PyTorch for CUDA is what pip installs on Linux; without a driver it still names its accelerator."""

    def current_accelerator(check_available=False):
        return None if check_available else torch.device(built_for)

    monkeypatch.setattr("torch.accelerator.current_accelerator", current_accelerator)
    engine = make_engine(model)
    engine.submit(Generate("a", [7, 8, 9], 4, [STOP], 1.0, 0))
    while engine.is_busy:
        engine.step()
    assert engine._device == torch.device("cpu")


def test_log_probs_of_requests_that_come_and_go(model):
    """Four at a time of eleven, of unequal lengths: rows join, end and are padded anew at almost
    every step.
    """
    engine = make_engine(model, max_num_seqs=4)
    requests = generates(11)
    results = results_of(engine, requests)
    for request in requests:
        result = results[request.request_id]
        expected = plain_logp(model[0], request.context_ids, result.ids)
        np.testing.assert_allclose(result.logprobs_L, expected, atol=1e-4)
        assert (result.finish == "stop") == (result.ids[-1] == STOP) and STOP not in result.ids[:-1]
        assert result.finish == "stop" or len(result.ids) == request.max_tokens
    assert engine.weights_version == 3 and not engine.is_busy


def test_a_request_gives_the_same_turn_whatever_is_beside_it(model):
    engine = make_engine(model)
    requests = generates(6)
    together = results_of(engine, requests)
    for request in requests:
        assert results_of(engine, [request])[request.request_id].ids == together[request.request_id].ids


def test_a_request_may_join_while_others_decode(model):
    engine = make_engine(model)
    late, early = generates(2)
    early.max_tokens, early.stop_token_ids = 12, []
    engine.submit(early)
    finished = [*engine.step(), *engine.step(), *engine.step()]
    engine.submit(late)
    while engine.is_busy:
        finished += engine.step()
    for result in finished:
        request = early if result.request_id == early.request_id else late
        np.testing.assert_allclose(
            result.logprobs_L, plain_logp(model[0], request.context_ids, result.ids), atol=1e-4
        )
    assert {result.request_id for result in finished} == {early.request_id, late.request_id}


def test_scores(model):
    rng = np.random.default_rng(0)
    requests = []
    for k, context in enumerate(random_contexts(9, shortest=1)):
        length = int(rng.integers(2, 30))
        gold_mask_L = rng.random(length) < 0.5
        gold_mask_L[-1] = True
        requests.append(
            ScoreAnswer(f"s{k}", context, rng.integers(6, 200, size=length).tolist(), gold_mask_L)
        )
    results = results_of(make_engine(model), [*requests, *generates(3)])
    expected = [plain_logp(model[0], r.context_ids, r.suffix_ids)[r.gold_mask_L].mean() for r in requests]
    np.testing.assert_allclose([results[r.request_id].score for r in requests], expected, atol=1e-4)
    assert sum(isinstance(result, Generated) for result in results.values()) == 3


def test_pushed_weights_are_used_and_must_fit(model):
    engine = make_engine(model)
    request = generates(1)[0]
    request.temperature = 0.0
    before = results_of(engine, [request])["g0"]
    moved = {
        name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in pushed_weights(model[0]).items()
    }
    engine.load_weights(moved, version=4)
    after = results_of(engine, [request])["g0"]
    assert engine.weights_version == 4 and after.logprobs_L[0] != before.logprobs_L[0]
    with pytest.raises(ValueError, match=r"missing \['model.norm.weight'\]"):
        engine.load_weights(
            {name: tensor for name, tensor in moved.items() if name != "model.norm.weight"}, version=5
        )
    engine.submit(request)
    with pytest.raises(RuntimeError, match="while requests were running"):
        engine.load_weights(moved, version=5)


def test_a_sleeping_engine_wakes_with_the_next_weights(model, monkeypatch):
    engine = make_engine(model, placement="colocated")
    request = generates(1)[0]
    before = results_of(engine, [request])["g0"]
    emptied = []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: emptied.append(engine._model.device.type))
    engine.sleep()
    assert not emptied, "PyTorch raises where there is no accelerator"
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(engine, "_device", torch.device("cuda"))
        engine.sleep()
    assert emptied == ["cpu"], "what the device's allocator keeps is given back once the weights have left it"
    with pytest.raises(RuntimeError, match="no weights yet"):
        engine.submit(request)
    engine.load_weights(pushed_weights(model[0]), version=4)
    assert results_of(engine, [request])["g0"].ids == before.ids and engine.weights_version == 4
    engine.submit(request)
    with pytest.raises(RuntimeError, match="while requests were running"):
        engine.sleep()


def test_a_request_that_is_too_long_is_refused(model):
    with pytest.raises(ValueError, match="request long is 250 \\+ 10 tokens long; the engine takes 256"):
        make_engine(model).submit(Generate("long", [7] * 250, 10, [], 1.0, 0))


@pytest.mark.slow
def test_agrees_with_vllm(model):
    """The same greedy turns, and the same scores."""
    pytest.importorskip("vllm")
    requests = generates(8)
    for request in requests:
        request.temperature = 0.0
    scores = [
        ScoreAnswer(f"s{k}", context, [9, 8, 7], np.array([True, True, False]))
        for k, context in enumerate(random_contexts(4, shortest=1))
    ]
    ours, theirs = (
        results_of(make_engine(model, kind), [*requests, *scores]) for kind in ("transformers", "vllm")
    )
    for request in requests:
        one, other = ours[request.request_id], theirs[request.request_id]
        assert one.ids == other.ids and one.finish == other.finish
        np.testing.assert_allclose(one.logprobs_L, other.logprobs_L, atol=1e-4)
    for request in scores:
        assert ours[request.request_id].score == pytest.approx(theirs[request.request_id].score, abs=1e-4)


def test_engines_of_several_policies_say_once_that_they_are_slow(model, caplog):
    _say_slow.cache_clear()
    folders = dict.fromkeys(("reader", "searcher"), model[1])
    build_engines(folders, EngineSettings(kind="transformers"), served={}, max_model_len=64, dtype="float32")
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "rollouts by the transformers engine"
    ]
