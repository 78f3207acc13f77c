"""Random mixtures of experts in float32, of two layers with four experts each."""

import torch
from random_llama import VOCAB
from transformers import (
    Dots1Config,
    Dots1ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def random_qwen3_moe():
    """The same weights at every call."""
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=32, intermediate_size=96)
    ).eval()


def random_mixtral():
    """The same weights at every call."""
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, intermediate_size=32)).eval()


def random_dots1():
    """The same weights at every call; its router adds a bias that bfloat16 cannot tell from 5."""
    torch.manual_seed(0)
    config = Dots1Config(
        **SIZES,
        n_routed_experts=4,
        n_shared_experts=1,
        moe_intermediate_size=32,
        intermediate_size=96,
        first_k_dense_replace=1,
    )
    model = Dots1ForCausalLM(config).eval()
    for name, bias in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            bias.copy_(5 + 0.003 * torch.arange(4))
    return model
