"""Models that the learner cannot reproduce are known by their configuration."""

import pytest
from transformers import CONFIG_MAPPING

from algorithms.igpo.model.supported import unsupported


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
        ("rwkv", {}, "its tokens meet elsewhere than in attention"),
    ],
)  # fmt: skip
def test_what_the_learner_cannot_reproduce(kind, settings, why):
    assert unsupported(CONFIG_MAPPING[kind](**settings)) == why
