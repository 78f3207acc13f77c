"""Which models the learner cannot reproduce, by configuration alone; `load_causal_lm` tries the weights."""

from __future__ import annotations

from typing import Any

LAYERS = ("full_attention", "sliding_attention", "attention", "mlp", "moe")
"""Kinds of layers, in a Hugging Face configuration, in which tokens meet by attention or not at all."""
WITH_SINKS = ("gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash")
"""Kinds of models whose attention has a sink, a score that belongs to no token."""


def unsupported(config: Any) -> str | None:
    """Why the learner cannot train a model of this configuration of transformers, in words; None where
    nothing speaks against it.
    """
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        return f"it caps its logits at {cap:g} after the output head"
    for name in ("logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1):
            return f"it scales its logits after the output head ({name} {getattr(config, name):g})"
    if config.model_type in WITH_SINKS:
        return "its attention has sinks"
    kinds = {
        *(getattr(config, "layer_types", None) or ()),
        *(getattr(config, "layers_block_type", None) or ()),
    }
    if other := sorted(kinds - {*LAYERS}):
        return f"its tokens meet elsewhere than in attention ({', '.join(other)})"
    if not getattr(config, "num_attention_heads", None):
        return "its tokens meet elsewhere than in attention"
    return None


def refusal(model_path: str | None, config: Any) -> str | None:
    """The sentence that refuses the model at `model_path`; None where nothing speaks against it."""
    why = unsupported(config)
    return why and (
        f"model_path {model_path} ({config.model_type}) cannot be trained here: {why}; "
        "take Llama, Qwen2, Qwen3, Mistral, SmolLM2 or a model built like them"
    )


def sliding_window(config: Any) -> int | None:
    """Tokens that the nearest-sighted attention layers of this configuration see; None where all see all.

    The learner reproduces a model with such a window on sequences that fit into it.
    """
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", None) is False:
        return None
    kinds = getattr(config, "layer_types", None)
    return int(window) if not kinds or "sliding_attention" in kinds else None
