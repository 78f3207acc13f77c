"""Models that the learner cannot reproduce are known by their configuration."""

from types import SimpleNamespace

import pytest
from transformers import CONFIG_MAPPING

from algorithms.igpo.model.supported import sliding_window, unsupported


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "gemma", "granite", "phi3"]
)
def test_attention_and_plain_logits(kind):
    assert unsupported(CONFIG_MAPPING[kind]()) is None


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("gemma2", {}, "it caps its logits at 30 after the output head"),
        ("cohere", {}, "it scales its logits after the output head (logit_scale 0.0625)"),
        ("granite", {"logits_scaling": 8.0}, "it scales its logits after the output head (logits_scaling 8)"),
        ("qwen3_next", {}, "its tokens meet elsewhere than in attention (linear_attention)"),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
         "its tokens meet elsewhere than in attention (conv)"),
        ("gpt_oss", {}, "its attention has sinks"),
        ("llama4_text", {}, "its tokens meet elsewhere than in attention (chunked_attention)"),
        ("rwkv", {}, "its tokens meet elsewhere than in attention"),
    ],
)  # fmt: skip
def test_what_the_learner_cannot_reproduce(kind, settings, why):
    assert unsupported(CONFIG_MAPPING[kind](**settings)) == why


@pytest.mark.parametrize(
    ("kind", "settings", "window"),
    [
        ("mistral", {"sliding_window": 4096}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("llama", {}, None),
        ("phi3", {"sliding_window": 2047}, 2047),
        ("qwen2", {"sliding_window": 4096}, None),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 1}, 512),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 32}, None),
        ("qwen2_moe", {}, None),
        ("gemma3_text", {"sliding_window": 512}, 512),
        ("gemma3_text", {"layer_types": ["full_attention"], "num_hidden_layers": 1}, None),
    ],
)
def test_the_sliding_window_in_force(kind, settings, window):
    assert sliding_window(CONFIG_MAPPING[kind](**settings)) == window


def test_a_window_that_a_configuration_names_but_turns_off():
    """As code that comes with a model may keep it."""
    assert sliding_window(SimpleNamespace(sliding_window=4096, use_sliding_window=False)) is None
    assert sliding_window(SimpleNamespace(sliding_window=4096, use_sliding_window=True)) == 4096
