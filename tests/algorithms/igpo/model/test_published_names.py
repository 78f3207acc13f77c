"""Weights by the names of a published checkpoint: those that transformers writes, and vLLM reads."""

import numpy as np
import pytest
import torch
from random_experts import random_dots1, random_mixtral, random_qwen3_moe
from random_llama import plain_logp, random_contexts, random_llama, results_of
from safetensors.torch import load_file

from algorithms.igpo.model import causal_lm
from algorithms.igpo.model.causal_lm import HFCausalLM, load_causal_lm
from algorithms.igpo.model.published_names import published_names
from envs.engine.base import EngineSettings, ScoreAnswer
from envs.engine.transformers import TransformersEngine
from envs.engine.vllm import VLLMEngine
from envs.engine.weights import state_to_tensors
from envs.errors import InputError


def module_in(folder, **changes):
    return HFCausalLM(
        observation_space=None, action_space=None, model_config={"path": str(folder), **changes}
    )


@pytest.mark.parametrize(
    ("make", "expert"),
    [
        (random_qwen3_moe, "model.layers.1.mlp.experts.3.down_proj.weight"),
        (random_mixtral, "model.layers.1.block_sparse_moe.experts.3.w2.weight"),
        (random_llama, "model.layers.1.mlp.down_proj.weight"),
    ],
)
def test_names_are_those_of_the_saved_model(tmp_path, make, expert):
    model = make()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert expert in saved
    published = dict(published_names(model, model.state_dict().items()))
    if model.config.tie_word_embeddings:
        del published["lm_head.weight"]
    assert published.keys() == saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(published[name], tensor), name

    module = module_in(tmp_path)
    pushed = state_to_tensors(module.get_state(inference_only=True))
    assert pushed.keys() == saved.keys()
    own = state_to_tensors(module_in(tmp_path, published_names=False).get_state(inference_only=True))
    assert (
        own.keys()
        == module.get_state().keys()
        == model.state_dict().keys() - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
    )
    module.save_pretrained(str(tmp_path / "again"))
    again = load_file(tmp_path / "again/model.safetensors")
    assert again.keys() == saved.keys() and all(torch.equal(again[name], saved[name]) for name in saved)


def test_adapters_beside_experts_are_merged_and_adapters_of_experts_are_refused(tmp_path):
    random_qwen3_moe().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lora.targets takes in the experts of a mixture.*\[q_proj"):
        module_in(tmp_path, lora={"rank": 4})

    module = module_in(tmp_path, lora={"rank": 4, "targets": ["q_proj", "o_proj"]})
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    pushed = state_to_tensors(module.get_state(inference_only=True))
    assert pushed.keys() == saved.keys()
    changed = {name for name, tensor in saved.items() if not torch.equal(pushed[name], tensor)}
    layers = [f"model.layers.{k}.self_attn" for k in range(2)]
    assert changed == {f"{layer}.{part}.weight" for layer in layers for part in ("q_proj", "o_proj")}


def test_what_transformers_keeps_in_float32_is_pushed_and_saved_so(tmp_path):
    """A router's bias: rounded, it would choose other experts in the engine than in the learner."""
    random_dots1().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    assert not torch.equal(saved[name].bfloat16().float(), saved[name])

    for changes in ({}, {"lora": {"targets": ["q_proj"]}}):
        module = module_in(tmp_path, dtype="bfloat16", **changes)
        pushed = state_to_tensors(module.get_state(inference_only=True))
        module.save_pretrained(str(tmp_path / "again"))
        again = load_file(tmp_path / "again/model.safetensors")
        for found in (pushed, again):
            assert found.keys() == saved.keys() and torch.equal(found[name], saved[name])
            assert {tensor.dtype for other, tensor in found.items() if other != name} == {torch.bfloat16}

    own = module_in(tmp_path, dtype="bfloat16", published_names=False).get_state(inference_only=True)
    engine = TransformersEngine(str(tmp_path), EngineSettings(), max_model_len=32, dtype="bfloat16")
    engine.load_weights(state_to_tensors(own), version=0)
    assert torch.equal(engine._model.state_dict()[name], saved[name])


def test_a_model_without_weights_has_the_precision_of_one_with(tmp_path, monkeypatch):
    """Sharded learners send the tensors of the first one into those of the others."""
    random_dots1().save_pretrained(tmp_path)
    read = load_causal_lm(str(tmp_path), torch.bfloat16)
    monkeypatch.setattr(causal_lm, "reads_weights", lambda: False)
    made = load_causal_lm(str(tmp_path), torch.bfloat16)
    held = [{name: t.dtype for name, t in (*m.named_parameters(), *m.named_buffers())} for m in (read, made)]
    assert held[0] == held[1] and set(held[0].values()) == {torch.bfloat16, torch.float32}


def test_experts_arrive_in_vllm_at_every_push(tmp_path):
    """A CPU's kernel takes packed experts, which vLLM alone packs at the first load only."""
    model = random_qwen3_moe()
    model.save_pretrained(tmp_path)
    module = module_in(tmp_path)
    engine = VLLMEngine(
        str(tmp_path), EngineSettings(kv_cache_gib=0.25, max_num_seqs=8), max_model_len=512, dtype="float32"
    )
    answer = [9, 10, 11]
    for version in range(3):
        engine.load_weights(state_to_tensors(module.get_state(inference_only=True)), version=version)
        contexts = random_contexts(3)
        requests = [
            ScoreAnswer(f"{version}/{k}", context, answer, np.ones(3, dtype=bool))
            for k, context in enumerate(contexts)
        ]
        results = results_of(engine, requests)
        model.load_state_dict({**model.state_dict(), **state_to_tensors(module.get_state())})
        for request in requests:
            expected = plain_logp(model, request.context_ids, answer).mean()
            assert results[request.request_id].score == pytest.approx(expected, abs=1e-4)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
