"""One vLLM engine with two adapters of unequal rank, against plain transformers forwards in float32."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_llama import plain_logp, random_llama, results_of
from transformers import LlamaForCausalLM

from envs.engine.adapters import AdapterServer
from envs.engine.base import NO_WEIGHTS, EngineSettings, Generate, ScoreAnswer
from envs.engine.build import build_engines
from envs.engine.lora import LoraSettings, is_adapter, read_adapter, served_rank, write_adapter
from envs.errors import InputError

LORA = {
    "searcher": LoraSettings(rank=12),
    "reader": LoraSettings(rank=3, alpha=2.0, targets=["q_proj", "down_proj"]),
}
CONTEXT = [int(token) for token in np.random.default_rng(0).integers(6, 200, 70)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    random_llama().save_pretrained(folder)
    return str(folder)


def policy(base, name, seed):
    """A plain model with random adapters, and the tensors of these as a learner would push them."""
    lora = LORA[name]
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha_in_force, target_modules=lora.targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), config).eval()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, parameter in model.named_parameters():
        if ".lora_" in key:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
            tensors[key.removeprefix("base_model.model.")] = parameter.detach().clone()
    return model, tensors


def test_the_rank_that_is_reserved():
    assert served_rank(LORA) == 16 and served_rank({"a": LoraSettings(rank=1)}) == 1
    with pytest.raises(
        InputError, match=r"lora.rank is 513 for policy b; vLLM serves adapters of at most rank 512"
    ):
        served_rank({"a": LoraSettings(rank=4), "b": LoraSettings(rank=513)})


def test_a_folder_is_read_as_it_was_written(tmp_path):
    name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
    write_adapter(tmp_path / "new", LORA["reader"], {name: torch.ones(3, 5)}, "base")
    assert is_adapter(tmp_path / "new") and not is_adapter(tmp_path)
    lora, tensors = read_adapter(tmp_path / "new")
    assert lora == LORA["reader"] and list(tensors) == [name] and torch.equal(tensors[name], torch.ones(3, 5))


@pytest.mark.slow
def test_each_policy_samples_and_scores_by_its_own_adapters(base):
    engines = build_engines(
        dict.fromkeys(["reader", "searcher"], base),
        EngineSettings(kv_cache_gib=0.25, max_num_seqs=16),
        served=LORA,
        max_model_len=256,
        dtype="float32",
    )
    reader, searcher = engines["reader"], engines["searcher"]
    assert isinstance(reader._server, AdapterServer) and reader._server is searcher._server
    assert not reader._server._engine.vllm_config.load_config.use_tqdm_on_load, "a bar on the user's terminal"
    with pytest.raises(RuntimeError, match="no weights yet"):
        reader.submit(Generate("early", [1], 1, [], 0.0, 0))
    models = {}
    for version in (0, 1):  # the second push replaces the first's adapters
        for seed, (name, engine) in enumerate(engines.items()):
            models[name], tensors = policy(base, name, 10 * version + seed)
            engine.load_weights(tensors, version)
        assert reader.weights_version == searcher.weights_version == version
        suffix = [7, 8, 9]
        for name, engine in engines.items():
            engine.submit(Generate(f"{name}/turn", CONTEXT, 12, [5], 1.0, 3))
            engine.submit(ScoreAnswer(f"{name}/score", CONTEXT, suffix, np.array([False, True, True])))
        results = results_of(reader)
        for name, model in models.items():
            written = results[f"{name}/turn"]
            np.testing.assert_allclose(written.logprobs_L, plain_logp(model, CONTEXT, written.ids), atol=1e-4)
            belief = plain_logp(model, CONTEXT, suffix)[1:].mean()
            assert results[f"{name}/score"].score == pytest.approx(belief, abs=1e-4)
        scores = {results[f"{name}/score"].score for name in engines}
        assert max(scores) - min(scores) > 0.01, "the adapters differ, and each has its own prefix cache"
    reader.load_weights({}, 2)  # no adapters: the base
    reader.submit(Generate("base", CONTEXT, 6, [], 1.0, 3))
    written = results_of(reader)["base"]
    plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    np.testing.assert_allclose(written.logprobs_L, plain_logp(plain, CONTEXT, written.ids), atol=1e-4)
    reader.sleep()
    searcher.sleep()
    assert reader.weights_version == searcher.weights_version == NO_WEIGHTS
