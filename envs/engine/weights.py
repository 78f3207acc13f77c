"""Converts weights from NumPy arrays, the form between processes, to torch tensors for an engine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

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
