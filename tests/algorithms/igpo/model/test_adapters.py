"""Policies that are adapters of one base: a learner holds it once, and sends and saves adapters alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from igpo_learner_setup import TOKENS, learner_config, make_batch, save_tiny_llama, update

from algorithms.igpo.learner.learner import IGPOTorchLearner
from algorithms.igpo.model.causal_lm import load_causal_lm
from algorithms.igpo.model.lora import add_lora, merged_weights, set_adapters
from algorithms.igpo.model.one_base import ModulesOfOneBase, shared
from envs.engine.lora import LoraSettings, is_adapter, read_adapter
from envs.engine.models import resolve_model
from envs.engine.weights import state_to_tensors
from envs.errors import InputError

ROLES = [
    {"name": "searcher", "policy": "searcher"},
    {"name": "reader", "actions": ["message"], "reads": "searcher", "policy": "reader"},
]
LORA = {
    "searcher": {"lora": {"rank": 4, "targets": ["q_proj", "down_proj"]}},
    "reader": {"lora": {"rank": 2, "alpha": 3.0, "targets": ["v_proj"]}},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def config_of(llama, policies, **settings):
    config = learner_config(model_path=llama, env_config={"roles": ROLES}, **settings)
    config.multi_agent(policies=policies)
    config.validate()
    return config


def learner_of(llama, policies=LORA, **settings):
    config = config_of(llama, policies, **settings)
    spaces = dict.fromkeys(config.policies, (TOKENS, TOKENS))
    learner = IGPOTorchLearner(config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces))
    learner.build()
    return learner


def batch(seed=0):
    return make_batch(seed=seed, agents=("searcher", "reader"), policy=lambda agent: agent)


def models(learner):
    return {policy: learner.module[policy].hf for policy in ("searcher", "reader")}


def adapters_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".lora_" in name}


def base_of(model):
    named = model.named_parameters()
    return {name.replace(".base_layer", ""): p for name, p in named if ".lora_" not in name}


def test_the_base_is_in_memory_once_and_each_policy_has_its_own_adapters(llama):
    learner = learner_of(llama)
    searcher, reader = models(learner).values()
    assert isinstance(learner.module, ModulesOfOneBase)
    assert (
        base_of(searcher).keys()
        == base_of(reader).keys()
        == base_of(load_causal_lm(llama, torch.float32)).keys()
    )
    assert all(base_of(searcher)[name] is parameter for name, parameter in base_of(reader).items())
    # Two layers: (4 rows of A, 4 columns of B) for q_proj and down_proj; the reader's for v_proj.
    shapes = {name: tuple(tensor.shape) for name, tensor in adapters_of(searcher).items()}
    assert len(shapes) == 8 and shapes["model.layers.0.mlp.down_proj.lora_A.default.weight"] == (4, 64)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapters_of(reader).items()}
    assert len(shapes) == 4 and shapes["model.layers.1.self_attn.v_proj.lora_B.default.weight"] == (32, 2)
    assert len(learner._params) == 12
    on_device = [id(tensor) for _, tensor in learner._state_tensors()]
    assert len(on_device) == len(set(on_device)), "moved once between device and host memory"


def test_both_adapters_learn_as_they_would_on_bases_of_their_own(llama):
    """One update from the same batch: the shared base changes no number."""
    learner, before = learner_of(llama, lr=0.02, kl_coeff=0.1), load_causal_lm(llama, torch.float32)
    started = {policy: adapters_of(model) for policy, model in models(learner).items()}
    alone = {}
    for policy in LORA:  # the other policy is a whole model of its own
        single = learner_of(llama, {policy: LORA[policy]}, lr=0.02, kl_coeff=0.1)
        assert not isinstance(single.module, ModulesOfOneBase)
        set_adapters(single.module[policy].hf, started[policy])
        update(single, batch())
        alone[policy] = adapters_of(single.module[policy].hf)
    update(learner, batch())
    for policy, model in models(learner).items():
        for name, tensor in adapters_of(model).items():
            torch.testing.assert_close(tensor, alone[policy][name], atol=0, rtol=0)
        changed = [
            not torch.equal(tensor, started[policy][name]) for name, tensor in adapters_of(model).items()
        ]
        assert any(changed)
        for name, parameter in base_of(model).items():
            assert torch.equal(parameter, before.get_parameter(name)), name


def test_a_frozen_policy_keeps_its_adapters(llama):
    learner = learner_of(llama, lr=0.02, policies_to_train=["searcher"])
    started = {policy: adapters_of(model) for policy, model in models(learner).items()}
    update(learner, batch())
    for policy, model in models(learner).items():
        same = all(torch.equal(tensor, started[policy][name]) for name, tensor in adapters_of(model).items())
        assert same == (policy == "reader")


def test_engines_get_adapters_and_the_export_is_read_back(llama, tmp_path):
    learner = learner_of(llama, lr=0.02)
    update(learner, batch())
    for policy in LORA:
        module, folder = learner.module[policy], tmp_path / policy
        pushed = state_to_tensors(module.get_state(inference_only=True))
        assert all(torch.equal(pushed[name], tensor) for name, tensor in adapters_of(module.hf).items())
        assert pushed.keys() == adapters_of(module.hf).keys()
        module.save_pretrained(str(folder))
        assert sorted(path.name for path in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        lora, tensors = read_adapter(folder)
        assert (lora.rank, lora.alpha_in_force, lora.targets) == (
            LORA[policy]["lora"]["rank"],
            {"searcher": 8.0, "reader": 3.0}[policy],
            LORA[policy]["lora"]["targets"],
        )  # fmt: skip
        fresh = load_causal_lm(llama, torch.float32)
        add_lora(fresh, lora)
        set_adapters(fresh, tensors)
        expected = dict(merged_weights(module.hf))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in merged_weights(fresh))


def test_peft_reads_the_export(llama, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learner = learner_of(llama, lr=0.02)
    update(learner, batch())
    learner.module["reader"].save_pretrained(str(tmp_path))
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), tmp_path
    )
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        ours, theirs = learner.module["reader"].hf(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_engines_of_merged_weights_get_each_policys_whole_model(llama):
    learner = learner_of(llama, lr=0.02, engine={"adapters": "merged"})
    update(learner, batch())
    searcher, reader = (
        state_to_tensors(learner.module[policy].get_state(inference_only=True)) for policy in LORA
    )
    assert (
        searcher.keys()
        == reader.keys()
        == dict(load_causal_lm(llama, torch.float32).named_parameters()).keys()
    )
    differ = {name.split(".")[-2] for name in searcher if not torch.equal(searcher[name], reader[name])}
    assert differ == {"q_proj", "down_proj", "v_proj"}


def test_a_checkpoint_holds_adapters_alone_and_goes_on_exactly(llama, tmp_path):
    learner = learner_of(llama, lr=0.01)
    update(learner, batch(1))
    learner.save_to_path(str(tmp_path))
    base = (Path(llama) / "model.safetensors").stat().st_size
    states = [path.stat().st_size for path in (tmp_path / "rl_module").rglob("module_state*")]
    assert sum(states) < base / 10, (states, base)
    update(learner, batch(2))
    restored = learner_of(llama, lr=0.01)
    restored.restore_from_path(str(tmp_path))
    update(restored, batch(2))
    for policy in LORA:
        expected = learner.module[policy].get_state()
        for name, array in restored.module[policy].get_state().items():
            np.testing.assert_array_equal(array, expected[name])


def test_settings_of_one_policy(llama):
    config = config_of(llama, {"searcher": {"lr": 1e-2}, "reader": {"lora": None}}, lora={"rank": 4})
    assert config.get_config_for_module("searcher").lr == 1e-2 and config.lr == 1e-3
    assert config.adapters.by_policy == {"searcher": LoraSettings(rank=4)}, "the reader has none"
    assert not config.adapters.sharing and not config.adapters.served
    both = config_of(llama, {}, lora={"rank": 4})
    assert both.adapters.sharing == ["reader", "searcher"] == list(both.adapters.served)


def test_what_cannot_be_is_said(llama, tmp_path):
    for policies, settings, said in (
        ({"planner": {"lr": 1e-3}}, {}, "settings for planner, but no role speaks through it.* searcher"),
        ({"reader": {"gamma": 1}}, {}, "sets gamma for reader alone; policies may differ in lr"),
        ({"reader": {"lora": {"rank": 600}}}, {"lora": {}}, "600 for policy reader; .* at most rank 512"),
        ({"reader": {"lora": {}}}, {"engine": {"adapters": "served"}}, "has no effect here: it is about two"),
        (LORA, {"reference_refresh_interval": 2, "kl_coeff": 0.1}, "cannot refresh the base"),
        (LORA, {"shard_learner": True, "num_learners": 2}, "cannot be combined with lora"),
        (LORA, {"engine": {"weight_transfer": "nccl"}, "num_learners": 1, "num_gpus_per_learner": 1,
                "num_gpus_per_env_runner": 1}, "nccl sends whole models"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            config_of(llama, policies, **settings)
    with pytest.raises(RuntimeError, match="only the modules of a ModulesOfOneBase"):
        shared(load_causal_lm, llama)
    model = load_causal_lm(llama, torch.float32)
    add_lora(model, LoraSettings(rank=2))
    with pytest.raises(ValueError, match="of another model"):
        set_adapters(model, {})
    learner_of(llama).module["reader"].save_pretrained(str(tmp_path))
    assert is_adapter(tmp_path)
    with pytest.raises(InputError, match="holds adapters without their base"):
        resolve_model(str(tmp_path))
