"""Makes a model of a known shape with random weights and the tokenizer of SmolLM2: no network is needed.

    python -m benchmarks.gpu.random_model 1.5B FOLDER --device cuda

Speed and memory do not depend on what a model says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.devices import add_device, device_of
from benchmarks.gpu.results import add_result, write_result

SHAPES = {
    # Qwen2.5's: hidden, intermediate, layers, heads, key heads, vocabulary, tied.
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "tiny": (64, 128, 2, 2, 1, 49152, True),
}


def make(name: str, folder: Path, device: torch.device) -> int:
    """Writes the model and its tokenizer in bfloat16; returns the number of parameters."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from envs.engine.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = SHAPES[name]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        use_sliding_window=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("folder", type=Path)
    add_device(parser)
    add_result(parser)
    args = parser.parse_args()
    write_result(args.result, {"parameters": make(args.shape, args.folder, device_of(args.device))})


if __name__ == "__main__":
    main()
