"""The experts of a mixture in the precision of autocast.

The product that transformers computes them with (`grouped_mm`) is not among those that autocast casts, so
with float32 weights they would be computed in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

IN_AUTOCAST = "igpo_in_autocast"
"""What transformers calls this way to compute experts (`experts_implementation`)."""


class _InDtype:
    """A module whose parameters are read in `dtype`."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype):
        self._module, self._dtype = module, dtype

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return value.to(self._dtype) if isinstance(value, torch.nn.Parameter) else value


def experts_in_autocast(
    module: torch.nn.Module, hidden_states: torch.Tensor, *routing: torch.Tensor
) -> torch.Tensor:
    """Computes what `grouped_mm` of transformers does, in the precision of autocast where it is on.

    Args:
        module: a layer's experts.
        hidden_states: [tokens, width].
        routing: the chosen experts and their weights, [tokens, chosen] each.
    """
    device = hidden_states.device.type
    if not torch.is_autocast_enabled(device):
        return grouped_mm_experts_forward(module, hidden_states, *routing)
    dtype = torch.get_autocast_dtype(device)
    cast: Any = _InDtype(module, dtype)
    return grouped_mm_experts_forward(cast, hidden_states.to(dtype), *routing)


ALL_EXPERTS_FUNCTIONS.register(IN_AUTOCAST, experts_in_autocast)


def cast_experts(model: Any) -> None:
    """Sets how `model` computes its experts; does nothing to a model without such."""
    if model.config.get_text_config()._experts_implementation == "grouped_mm" and any(
        ".experts." in name for name, _ in model.named_parameters()
    ):
        model.set_experts_implementation(IN_AUTOCAST)
