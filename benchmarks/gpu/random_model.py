"""Makes a model of a known shape with random weights and the tokenizer of SmolLM2: no network is needed.

    python -m benchmarks.gpu.random_model 1.5B FOLDER --device cuda

Speed and memory do not depend on what a model says.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import Qwen2Config

from benchmarks.devices import add_device, device_of
from benchmarks.gpu.results import add_result, write_result
from pipeline.estimate.known_models import known_config

HUB_NAMES = {"1.5B": "Qwen/Qwen2.5-1.5B-Instruct", "7B": "Qwen/Qwen2.5-7B-Instruct"}
TINY = Qwen2Config(
    vocab_size=49152,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
)


def shape_of(name: str) -> Qwen2Config:
    """Returns the configuration of a key of `HUB_NAMES`, or of `tiny`."""
    config = TINY if name == "tiny" else known_config(HUB_NAMES[name])
    assert isinstance(config, Qwen2Config), name
    return config


def make(name: str, folder: Path, device: torch.device) -> int:
    """Writes the model and its tokenizer in bfloat16; returns the number of parameters."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    from envs.engine.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2"))
    config = Qwen2Config.from_dict(
        shape_of(name).to_dict()
        | {
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "use_sliding_window": False,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "dtype": torch.bfloat16,
        }
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
    parser.add_argument("shape", choices=[*HUB_NAMES, "tiny"])
    parser.add_argument("folder", type=Path)
    add_device(parser)
    add_result(parser)
    args = parser.parse_args()
    write_result(args.result, {"parameters": make(args.shape, args.folder, device_of(args.device))})


if __name__ == "__main__":
    main()
