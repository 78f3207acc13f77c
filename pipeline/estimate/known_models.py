"""Models that often are not on the machine that plans: Qwen2.5, Llama 3 and Qwen3 by hub name.

The numbers are those of each repository's `config.json`. A model that is not listed is described by a folder
here, or by the hub.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """What decides the number of parameters and the size of the KV cache."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    """The output head is the embedding."""
    head_width: int | None = None
    """None: `hidden / heads`."""


QWEN2_5 = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 151936, True),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 151936, True),
    "3B": Shape(2048, 11008, 36, 16, 2, 151936, True),
    "7B": Shape(3584, 18944, 28, 28, 4, 152064, False),
    "14B": Shape(5120, 13824, 48, 40, 8, 152064, False),
    "32B": Shape(5120, 27648, 64, 40, 8, 152064, False),
    "72B": Shape(8192, 29568, 80, 64, 8, 152064, False),
}
QWEN3 = {
    "0.6B": Shape(1024, 3072, 28, 16, 8, 151936, True, 128),
    "1.7B": Shape(2048, 6144, 28, 16, 8, 151936, True, 128),
    "4B": Shape(2560, 9728, 36, 32, 8, 151936, True, 128),
    "8B": Shape(4096, 12288, 36, 32, 8, 151936, False, 128),
    "14B": Shape(5120, 17408, 40, 40, 8, 151936, False, 128),
    "32B": Shape(5120, 25600, 64, 64, 8, 151936, False, 128),
}
LLAMA_3 = {
    "1B": Shape(2048, 8192, 16, 32, 8, 128256, True, 64),
    "3B": Shape(3072, 8192, 28, 24, 8, 128256, True, 128),
    "8B": Shape(4096, 14336, 32, 32, 8, 128256, False, 128),
    "70B": Shape(8192, 28672, 80, 64, 8, 128256, False, 128),
}

_FAMILIES = (
    (re.compile(r"Qwen/Qwen2\.5-(?P<size>[\d.]+B)(-Instruct)?"), QWEN2_5, "Qwen2Config"),
    (re.compile(r"Qwen/Qwen3-(?P<size>[\d.]+B)(-Base|-Instruct-2507|-Thinking-2507)?"), QWEN3, "Qwen3Config"),
    (
        re.compile(r"meta-llama/(Meta-)?Llama-3(\.[1-3])?-(?P<size>\d+B)(-Instruct)?"),
        LLAMA_3,
        "LlamaConfig",
    ),
)


def known_config(model_path: str) -> Any | None:
    """The configuration of a known model, as transformers has it; None for any other name.

    Args:
        model_path: a hub name, such as `Qwen/Qwen2.5-7B-Instruct`.
    """
    for name, shapes, config_class in _FAMILIES:
        match = name.fullmatch(model_path)
        if match is None or match["size"] not in shapes:
            continue
        import transformers

        shape = shapes[match["size"]]
        width = {} if shape.head_width is None else {"head_dim": shape.head_width}
        return getattr(transformers, config_class)(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            tie_word_embeddings=shape.tied,
            **width,
        )
    return None
