"""The embedded policy: a small Llama over the world's words, and its initial weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

HEAD_DIM = 32
"""vLLM's CPU attention needs at least 32."""
ROPE_THETA = 10_000.0
"""Includes slow rotations, because content must match over a few hundred tokens. At 100 it did not match
across two documents."""
POSITION_SHARPNESS = 7.0


def build_policy(vocab_size: int, seed: int) -> LlamaForCausalLM:
    """Builds a Llama of 3 layers, width 128, 0.68M parameters, float32, with three previous-token heads.

    See `_look_back` for these heads.

    Args:
        vocab_size: size of the vocabulary.
        seed: seed of the initial weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=HEAD_DIM,
        attention_bias=True,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model = LlamaForCausalLM(config)
    for head in range(3):
        _look_back(model, head, distance=head + 1)
    return model


def load_policy(folder: Path) -> LlamaForCausalLM:
    """Loads a policy that was made before, in float32."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


@torch.no_grad()
def _look_back(model: LlamaForCausalLM, head: int, distance: int) -> None:
    """Makes a head of the first layer attend to the token `distance` places back, for any tokens.

    To read `mira mother -> toma` in a document, a model needs tokens that know their predecessors, and then a
    head that matches on them. Gradient descent that has to find both at once stays on a plateau for an
    unpredictable time. Starting with the first leaves only the second to learn. Through the biases alone, the
    attention score is sum_i c^2 cos(theta_i (offset - distance)), which is largest at that distance. The
    weights can still learn.
    """
    attention: Any = model.model.layers[0].self_attn
    angles = distance * model.model.rotary_emb.inv_freq
    rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    attention.k_proj.bias[rows] = POSITION_SHARPNESS * torch.cat(
        [torch.ones_like(angles), torch.zeros_like(angles)]
    )
    attention.q_proj.bias[rows] = POSITION_SHARPNESS * torch.cat([torch.cos(angles), -torch.sin(angles)])
