"""Weights for an engine: from NumPy arrays, the form between processes, to torch tensors; their precision."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def state_to_tensors(state: Mapping[str, np.ndarray | torch.Tensor]) -> dict[str, torch.Tensor]:
    """Converts the state of a module (`HFCausalLM.get_state`). Shares memory with `state`.

    Args:
        state: {Hugging Face name: array}; int16 arrays hold the bits of bfloat16.

    Returns:
        {Hugging Face name: tensor}.
    """
    with warnings.catch_warnings():  # arrays from Ray's object store are read-only, which is enough here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    return {name: t.view(torch.bfloat16) if t.dtype is torch.int16 else t for name, t in tensors.items()}


def kept_in_float32(model: Any, name: str) -> bool:
    """Whether transformers keeps the tensor `name` in float32 where it loads `model` in bfloat16.

    It does so for the router of some mixtures, which would choose other experts with rounded numbers.
    """
    return any(part in name for part in model._keep_in_fp32_modules_strict or ())


def keep_in_float32(model: Any) -> None:
    """Gives a model that was made without weights the precision that it would have been loaded in."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if kept_in_float32(model, name) and tensor.is_floating_point():
            tensor.data = tensor.data.float()
