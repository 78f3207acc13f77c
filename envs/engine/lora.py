"""Low-rank adapters (LoRA, arXiv 2106.09685) outside a model: their settings, and their folder in the form of
`peft`, which vLLM and transformers read. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from envs.errors import InputError
from envs.settings import Settings

if TYPE_CHECKING:
    import torch

ADAPTER = "default"
"""The adapter's name inside a model."""
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `max_lora_rank` (0.32). An adapter of a lower rank is padded with zeros."""
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class LoraSettings(Settings):
    """`lora:` of an experiment file, or of one policy in it."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float | None = Field(
        None, gt=0, description="the adapters' product is scaled by alpha / rank; None: twice the rank"
    )
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear",
        description="names of the layers that get adapters, such as [q_proj, v_proj]; all but the output "
        "head",
    )

    @property
    def alpha_in_force(self) -> float:
        """`alpha`, or twice the rank."""
        return self.alpha or 2.0 * self.rank


def served_rank(adapters: Mapping[str, LoraSettings]) -> int:
    """The rank that an engine reserves for each of `adapters`: the least of vLLM's that holds the largest.

    Raises:
        InputError: vLLM serves none as large.
    """
    policy, largest = max(adapters.items(), key=lambda item: item[1].rank)
    for rank in SERVED_RANKS:
        if rank >= largest.rank:
            return rank
    raise InputError(
        f"lora.rank is {largest.rank} for policy {policy}; vLLM serves adapters of at most rank "
        f"{SERVED_RANKS[-1]}: lower it, or set engine.adapters to merged"
    )


def served_targets(adapters: Mapping[str, LoraSettings]) -> list[str] | Literal["all-linear"]:
    """The layers at which an engine serves `adapters`: those of all of them together.

    Raises:
        InputError: the output head is one. vLLM 0.32 returns no log-probs of prompts then, which belief is.
    """
    if any(lora.targets == "all-linear" for lora in adapters.values()):
        named = "all-linear"
    else:
        named = sorted({target for lora in adapters.values() for target in lora.targets})
    for policy, lora in adapters.items():
        if "lm_head" in lora.targets:
            raise InputError(
                f"lora.targets of policy {policy} name the output head lm_head, with which vLLM cannot score "
                "belief: leave it out, or set engine.adapters to merged"
            )
    return named


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds adapters, and not a whole model."""
    return Path(folder, _CONFIG).is_file()


def write_adapter(
    folder: str | Path, settings: LoraSettings, tensors: Mapping[str, torch.Tensor], base: str
) -> None:
    """Writes adapters in `peft`'s form.

    Args:
        folder: made where it is missing.
        settings: what the adapters were made with.
        tensors: {name in the model: tensor}, such as `model.layers.0.mlp.up_proj.lora_A.default.weight`.
        base: folder or hub name of the base.
    """
    from safetensors.torch import save_file

    Path(folder).mkdir(parents=True, exist_ok=True)
    named = {_PREFIX + _outside(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, Path(folder, _WEIGHTS))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha_in_force,
        "target_modules": settings.targets,
        "bias": "none",
        "inference_mode": True,
    }
    Path(folder, _CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def read_adapter(folder: str | Path) -> tuple[LoraSettings, dict[str, torch.Tensor]]:
    """Reads adapters that `write_adapter` wrote: their settings, and {name in the model: tensor}."""
    from safetensors.torch import load_file

    config = json.loads(Path(folder, _CONFIG).read_text(encoding="utf-8"))
    settings = LoraSettings(rank=config["r"], alpha=config["lora_alpha"], targets=config["target_modules"])
    tensors = load_file(Path(folder, _WEIGHTS))
    return settings, {_inside(name.removeprefix(_PREFIX)): tensor for name, tensor in tensors.items()}


def _outside(name: str) -> str:
    return name.replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")  # of an embedding, it is the last


def _inside(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return f"{name}.{ADAPTER}" if last.startswith("lora_embedding_") else f"{stem}.{ADAPTER}.{last}"
