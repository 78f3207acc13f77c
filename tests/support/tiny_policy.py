"""A random policy of some hundred thousand parameters and an experiment on it, for tests of the
command line."""

import re
from pathlib import Path
from typing import Any

import yaml


def write_policy(folder: Path, *texts: str) -> Path:
    """A Hugging Face folder whose tokenizer knows the generated world, and the words of `texts`."""
    from random_llama import random_llama

    from envs.search.protocols.tiny import build_tokenizer
    from envs.world.words import vocabulary

    words = [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())]
    tokenizer = build_tokenizer(list(dict.fromkeys([*vocabulary(), *words])))
    tokenizer.save_pretrained(folder)
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    random_llama(vocab_size=len(tokenizer), initializer_range=0.02, **special).save_pretrained(folder)
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
