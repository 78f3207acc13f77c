"""What `engine.vllm` passes through to vLLM, and what it refuses."""

from types import SimpleNamespace

import pytest

from envs.engine import vllm, vllm_arguments
from envs.engine.base import EngineSettings
from envs.engine.vllm_arguments import REFUSED, known_arguments, make

needs_vllm = pytest.mark.skipif(not known_arguments(), reason="vLLM is not installed")


def test_arguments_reach_the_engine_and_win():
    settings = EngineSettings(vllm={"max_num_batched_tokens": 4096, "swap": 1} if not known_arguments() else
                              {"max_num_batched_tokens": 4096, "disable_cascade_attn": True})  # fmt: skip
    made = make(dict, settings.vllm, model="m", max_num_batched_tokens=8192)
    assert made["max_num_batched_tokens"] == 4096 and made["model"] == "m" and len(made) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quantization", "the engine would sample from another policy than the learner trains"),
        ("kv_cache_dtype", "another policy"),
        ("logprobs_mode", "the learner compares raw log-probs with its own"),
        ("override_generation_config", "whole vocabulary at temperature 1"),
        ("kv_transfer_config", "would keep what old weights computed"),
        ("dtype", "set model_dtype"),
        ("max_model_len", "set env_config.max_context_tokens"),
        ("enable_lora", "set `lora`"),
    ],
)
def test_arguments_that_could_break_the_scores_are_refused(name, said):
    with pytest.raises(ValueError, match=f"vLLM's `{name}` can't be passed through: .*{said}"):
        EngineSettings(vllm={name: 1})


def test_they_mean_nothing_to_another_engine():
    with pytest.raises(ValueError, match="`vllm` has no effect on kind `transformers`"):
        EngineSettings(kind="transformers", vllm={"max_num_batched_tokens": 4096})


@needs_vllm
def test_an_argument_that_vllm_does_not_have_is_named():
    with pytest.raises(ValueError, match="no argument `max_num_batch_tokens`, did you mean `max_num_batched"):
        EngineSettings(vllm={"max_num_batch_tokens": 4096})


@needs_vllm
def test_what_is_refused_exists():
    """But for one that a version before this had."""
    assert REFUSED.keys() - known_arguments() <= {"calculate_kv_scales"}


def test_without_vllm_nothing_is_known_and_what_breaks_is_still_refused(monkeypatch):
    monkeypatch.setattr(vllm_arguments, "known_arguments", frozenset)
    assert EngineSettings(vllm={"anything": 1}).vllm == {"anything": 1}
    with pytest.raises(ValueError, match="another policy"):
        EngineSettings(vllm={"quantization": "fp8"})


@pytest.mark.parametrize("size, backend", [(1, None), (2, "mp")])
def test_an_engine_over_several_gpus_starts_processes_of_its_own(monkeypatch, size, backend):
    """By itself vLLM takes Ray where it finds itself in a placement group, as under Tune."""
    asked = {}
    monkeypatch.setattr(vllm, "check_device", lambda settings: None)
    monkeypatch.setattr(vllm, "import_vllm", lambda dtype: None)
    monkeypatch.setattr(
        vllm, "make", lambda *_, **given: asked.update(given) or SimpleNamespace(llm_engine=None)
    )
    settings = EngineSettings(tensor_parallel_size=size)
    vllm.VLLMEngine("a model", settings, max_model_len=8, dtype="float32")
    assert (asked["tensor_parallel_size"], asked["distributed_executor_backend"]) == (size, backend)
