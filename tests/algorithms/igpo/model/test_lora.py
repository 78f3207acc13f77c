"""LoRA on a tiny random Llama: only adapters learn, everyone else sees a plain model with merged weights."""

import weakref

import numpy as np
import pytest
import torch
from igpo_learner_setup import make_batch, make_learner, random_rows, save_tiny_llama, update
from transformers import AutoModelForCausalLM

from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.model.causal_lm import BASE, load_causal_lm
from algorithms.igpo.model.lora import LoraSettings, add_lora, without_adapters
from algorithms.igpo.model.token_logp import token_logp
from envs.engine.lora import read_adapter, write_adapter
from envs.engine.weights import state_to_tensors
from envs.errors import InputError

LORA = {"lora": {"rank": 4, "targets": ["q_proj", "down_proj"]}}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def module_of(learner):
    return learner.module["default_policy"]


@torch.no_grad()
def logits(model, seed=0):
    return model(input_ids=torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(seed))).logits


def test_fresh_adapters_change_nothing(llama):
    module = module_of(make_learner(llama, model_config=LORA))
    base = load_causal_lm(llama, torch.float32)
    assert torch.equal(logits(module.hf), logits(base))
    pushed = state_to_tensors(module.get_state(inference_only=True))
    assert pushed.keys() == dict(base.named_parameters()).keys()
    assert all(torch.equal(pushed[name], parameter) for name, parameter in base.named_parameters())


def test_one_merged_weight_exists_at_a_time(llama):
    """A copy of every adapted layer beside the base would not fit where the base just does."""
    module = module_of(make_learner(llama, model_config=LORA))
    own = {tensor.data_ptr() for tensor in module.hf.state_dict().values()}
    made = []
    for _, tensor in module.engine_weights():
        assert all(earlier() is None for earlier in made)
        if tensor.data_ptr() not in own:
            made.append(weakref.ref(tensor))
    assert len(made) == 4, "two layers with two adapted projections"


def test_only_adapters_learn_and_the_push_is_the_merged_model(llama):
    learner = make_learner(llama, model_config=LORA, lr=0.02)
    module = module_of(learner)
    trained = {name for name, parameter in module.hf.named_parameters() if parameter.requires_grad}
    # Two layers with two adapted projections of two matrices each.
    assert len(trained) == 8 and all(".lora_" in name for name in trained)
    assert len(learner._params) == 8
    for seed in range(3):
        update(learner, make_batch(seed=seed))
    assert (logits(module.hf) - logits(load_causal_lm(llama, torch.float32))).abs().max() > 0.1
    plain = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    plain.load_state_dict(state_to_tensors(module.get_state(inference_only=True)), strict=False)
    torch.testing.assert_close(logits(plain), logits(module.hf), atol=1e-5, rtol=1e-5)
    base = load_causal_lm(llama, torch.float32).state_dict()
    for name, parameter in module.hf.named_parameters():
        if name not in trained:
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name


def test_merging_by_hand(llama):
    model = load_causal_lm(llama, torch.float32)
    add_lora(model, LoraSettings(rank=2, alpha=3.0, targets=["v_proj"]))
    layer = model.model.layers[1].self_attn.v_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    from algorithms.igpo.model.lora import merged_weights

    expected = (
        layer.base_layer.weight + 3.0 / 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    torch.testing.assert_close(
        dict(merged_weights(model))["model.layers.1.self_attn.v_proj.weight"], expected, atol=1e-6, rtol=0
    )


def test_the_reference_is_the_base_and_the_gradient_that_of_the_adapters(llama):
    learner = make_learner(llama, model_config=LORA, loss=LossSettings(kl_coeff=0.5), lr=0.02)
    module = module_of(learner)
    with learner._references.model("default_policy") as reference:
        assert reference is module.hf
    update(learner, make_batch(seed=1))
    assert update(learner, make_batch(seed=2))["default_policy"]["kl"].peek() > 1e-3
    frozen = load_causal_lm(llama, torch.float32)
    columns = random_rows((9, 9))
    before = {name: p.requires_grad for name, p in module.hf.named_parameters()}
    with torch.no_grad(), without_adapters(module.hf):
        base = token_logp(module.hf, *columns)[0]
    torch.testing.assert_close(base, token_logp(frozen, *columns)[0].detach())
    assert before == {name: p.requires_grad for name, p in module.hf.named_parameters()}
    assert not torch.allclose(base, token_logp(module.hf, *columns)[0], atol=1e-2)


def test_checkpoint_holds_the_adapters_and_goes_on_exactly(llama, tmp_path):
    learner = make_learner(llama, model_config=LORA, lr=0.01)
    update(learner, make_batch(seed=1))
    learner.save_to_path(str(tmp_path / "learner"))
    update(learner, make_batch(seed=2))
    restored = make_learner(llama, model_config=LORA, lr=0.01)
    restored.restore_from_path(str(tmp_path / "learner"))
    update(restored, make_batch(seed=2))
    expected = module_of(learner).get_state()
    assert all(".lora_" in name for name in expected if name != BASE)
    for name, array in module_of(restored).get_state().items():
        np.testing.assert_array_equal(array, expected[name])


def test_adapters_of_another_base_of_the_same_shape_are_refused(llama, tmp_path):
    state = module_of(make_learner(llama, model_config=LORA)).get_state()
    in_bfloat16 = {**LORA, "dtype": "bfloat16"}
    module_of(make_learner(llama, model_config=in_bfloat16)).set_state(state)
    other = save_tiny_llama(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=f"were trained on other weights than those in {other}"):
        module_of(make_learner(other, model_config=LORA)).set_state(state)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_is_a_plain_model(llama, tmp_path, dtype):
    learner = make_learner(llama, model_config={**LORA, "dtype": dtype}, lr=0.02)
    update(learner, make_batch())
    module = module_of(learner)
    kinds = (
        {p.dtype for p in module.hf.parameters() if p.requires_grad},
        {p.dtype for p in module.hf.parameters()},
    )
    assert kinds == ({torch.float32}, {torch.float32, getattr(torch, dtype)})
    module.save_pretrained(str(tmp_path / dtype))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / dtype, dtype="auto")
    assert str(model.dtype) == f"torch.{dtype}"
    pushed = state_to_tensors(module.get_state(inference_only=True))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, pushed[name]), name


def test_targets_that_no_layer_has_are_refused(llama):
    with pytest.raises(ValueError, match="nope"):
        add_lora(load_causal_lm(llama, torch.float32), LoraSettings(targets=["nope"]))
    with pytest.raises(ValueError, match="rank"):
        LoraSettings(rank=0)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["q_proj", "lm_head"]])
def test_adapters_of_a_tied_weight_are_refused(llama, targets):
    """Engine and loaded folder would tie what the adapters have made two."""
    with pytest.raises(InputError, match=rf"name {targets[-1]}, but .*\(tie_word_embeddings\)"):
        add_lora(load_causal_lm(llama, torch.float32), LoraSettings(targets=targets))


def test_adapters_of_embeddings_and_head_are_pushed_and_saved(tmp_path):
    path = save_tiny_llama(tmp_path / "untied", tied=False)
    learner = make_learner(path, model_config={"lora": {"targets": ["lm_head", "embed_tokens"]}}, lr=0.02)
    update(learner, make_batch())
    module, base = module_of(learner), load_causal_lm(path, torch.float32)
    pushed = state_to_tensors(module.get_state(inference_only=True))
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert (pushed[name] - base.state_dict()[name]).abs().max() > 1e-4
    module.save_pretrained(str(tmp_path / "saved"))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    torch.testing.assert_close(logits(saved), logits(module.hf), atol=1e-5, rtol=1e-5)


def test_the_adapter_of_an_embedding_has_the_names_of_peft(tmp_path):
    from safetensors import safe_open

    path = save_tiny_llama(tmp_path / "untied", tied=False)
    model, settings = load_causal_lm(path, torch.float32), LoraSettings(targets=["embed_tokens", "q_proj"])
    add_lora(model, settings)
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    write_adapter(tmp_path / "adapter", settings, own, path)
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {f"base_model.model.model.embed_tokens.lora_embedding_{x}" for x in "AB"} < names
    assert not any("default" in name for name in names)
    assert read_adapter(tmp_path / "adapter")[1].keys() == own.keys()
