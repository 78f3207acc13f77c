"""The real vLLM engine against a plain transformers forward in float32."""

import numpy as np
import pytest
import torch
from chat_tokenizers import chat_tokenizer
from random_llama import plain_logp, pushed_weights, random_contexts, random_llama, results_of
from transformers import LlamaConfig, LlamaForCausalLM

from envs.engine.accelerator import check_device
from envs.engine.base import EngineSettings, Generate, ScoreAnswer
from envs.engine.vllm import VLLMEngine
from envs.errors import InputError

STOP = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    model = random_llama(bos_token_id=None, eos_token_id=None, pad_token_id=0)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, str(folder)


@pytest.fixture(scope="module")
def engine(model):
    engine = VLLMEngine(
        model[1], EngineSettings(kv_cache_gib=0.25, max_num_seqs=32), max_model_len=512, dtype="float32"
    )
    with pytest.raises(RuntimeError, match="no weights yet"):
        engine.submit(Generate("early", [1], 1, [], 0.0, 0))
    engine.load_weights(pushed_weights(model[0]), version=0)
    return engine


def test_sampled_log_probs_before_and_after_a_weight_push(model, engine):
    for version in range(2):
        requests = [
            Generate(f"g{version}/{k}", context, 24, [STOP], 1.0, k)
            for k, context in enumerate(random_contexts(16))
        ]
        results = results_of(engine, requests)
        for request in requests:
            result = results[request.request_id]
            np.testing.assert_allclose(
                result.logprobs_L, plain_logp(model[0], request.context_ids, result.ids), atol=1e-4
            )
            assert (result.finish == "stop") == (result.ids[-1] == STOP) and STOP not in result.ids[:-1]
        with torch.no_grad():
            for parameter in model[0].parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        engine.load_weights(pushed_weights(model[0]), version=version + 1)
    assert engine.weights_version == 2


def test_a_sleeping_engine_wakes_with_the_next_weights(model, engine):
    """The calls of `placement: colocated`; a CPU worker frees nothing, but vLLM's own state goes to sleep and
    wakes.
    """
    request = Generate("late", random_contexts(1)[0], 8, [], 1.0, 0)
    engine.submit(request)
    with pytest.raises(RuntimeError, match="while requests were running"):
        engine.sleep()
    while engine.is_busy:
        engine.step()
    engine.sleep()
    assert engine._engine.is_sleeping()
    with pytest.raises(RuntimeError, match="no weights yet"):
        engine.submit(request)
    engine.load_weights(pushed_weights(model[0]), version=9)
    assert engine.weights_version == 9 and not engine._engine.is_sleeping()
    result = results_of(engine, [request])["late"]
    np.testing.assert_allclose(
        result.logprobs_L, plain_logp(model[0], request.context_ids, result.ids), atol=1e-4
    )


def test_the_same_seed_gives_the_same_turn_whatever_is_beside_it(engine):
    context = random_contexts(1)[0]
    alone = results_of(engine, [Generate("a", context, 16, [], 1.0, 11)])["a"].ids
    others = [Generate(f"o{k}", c, 16, [], 1.0, k) for k, c in enumerate(random_contexts(8, seed=1))]
    assert results_of(engine, [*others, Generate("a", context, 16, [], 1.0, 11)])["a"].ids == alone


@pytest.mark.parametrize("answer_length", [1, 2, 30])
def test_scores_with_the_prefix_cached(model, engine, answer_length):
    rng = np.random.default_rng(answer_length)
    requests = []
    for k, context in enumerate(random_contexts(12, seed=answer_length)):
        if k % 3 == 0:  # a context whose last block is full, and will be wholly cached
            context = (context * 5)[:64]
        suffix = rng.integers(6, 200, size=answer_length + 1).tolist()
        gold_mask_L = np.array([True] * answer_length + [False])
        requests.append(ScoreAnswer(f"s{k}", context, suffix, gold_mask_L))
    results_of(engine, [Generate(f"fill{k}", r.context_ids, 1, [], 0.0, 0) for k, r in enumerate(requests)])
    expected = [plain_logp(model[0], r.context_ids, r.suffix_ids)[r.gold_mask_L].mean() for r in requests]
    for _ in range(2):  # the second time the answers' own blocks are cached too
        results = results_of(engine, requests)
        np.testing.assert_allclose([results[r.request_id].score for r in requests], expected, atol=1e-4)


def test_a_cache_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="engine.kv_cache_gib is 100000 but only .* are free: lower it"):
        check_device(EngineSettings(kv_cache_gib=100000))


@pytest.mark.slow
def test_a_stop_string_ends_a_turn_and_keeps_its_tokens(tmp_path):
    torch.manual_seed(1)
    tokenizer = chat_tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, eos_token_id=None, **sizes)
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = EngineSettings(kv_cache_gib=0.25, max_num_seqs=4)
    engine = VLLMEngine(str(tmp_path), settings, max_model_len=512, dtype="float32", reads_text=True)
    engine.load_weights({name: tensor.clone() for name, tensor in model.state_dict().items()}, version=0)
    asked = {"context_ids": [1, 2, 3], "max_tokens": 60, "stop_token_ids": [], "temperature": 1.0, "seed": 3}
    whole = results_of(engine, [Generate("whole", **asked)])["whole"]
    # Two neighbouring plain letters that occur for the first time: where the turn has to end.
    text = [tokenizer.decode([i]) for i in whole.ids]
    at = next(
        k for k in range(5, 59) if (text[k] + text[k + 1]).isascii() and (text[k] + text[k + 1]).isalpha()
    )
    stop = text[at] + text[at + 1]
    cut = results_of(engine, [Generate("cut", **asked, stop_strings=[stop])])["cut"]
    assert cut.ids == whole.ids[: at + 2] and cut.finish == "stop"
    np.testing.assert_allclose(cut.logprobs_L, whole.logprobs_L[: at + 2], atol=1e-5)
