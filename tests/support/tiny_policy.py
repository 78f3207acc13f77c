"""A random policy of some hundred thousand parameters and an experiment on it, for tests of the
command line."""

from pathlib import Path
from typing import Any

import yaml


def write_policy(folder: Path) -> Path:
    """A Hugging Face folder whose tokenizer knows the generated world."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from envs.search.protocols.tiny import build_tokenizer
    from envs.world.words import vocabulary

    tokenizer = build_tokenizer(vocabulary())
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_experiment(
    path: Path, policy: Path | str, *, iterations: int = 3, env: dict[str, Any] | None = None, **config
) -> Path:
    """An experiment `demo` on `policy` that writes to `runs` beside the file; `config` and `env` change its
    settings.
    """
    env_config = {
        "max_turns": 3, "max_turn_tokens": 8, "max_context_tokens": 256,
        "world": {"entities": 50, "train_questions": 100, "heldout_questions": 20},
    }  # fmt: skip
    settings = {
        "model_path": str(policy),
        "prompts_per_iteration": 8,
        "group_size": 4,
        "lr": 1e-4,
        "engine": {"kv_cache_gib": 0.25, "max_num_seqs": 32},
        "env_config": env_config | (env or {}),
        **config,
    }
    keys = {"run": "IGPO", "env": "search", "stop": {"training_iteration": iterations}, "config": settings}
    path.write_text(yaml.safe_dump({"demo": keys | {"storage_path": str(path.parent / "runs")}}))
    return path
