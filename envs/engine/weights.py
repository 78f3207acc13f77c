"""Weights on their way into an engine: NumPy arrays, as they travel between processes, to torch tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch


def state_to_tensors(state: Mapping[str, np.ndarray | torch.Tensor]) -> dict[str, torch.Tensor]:
    """`HFCausalLM.get_state` as torch tensors by Hugging Face name; int16 arrays become bfloat16. Shares
    memory with `state`.
    """
    with warnings.catch_warnings():  # arrays out of Ray's object store are read-only; they are only read here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    return {name: t.view(torch.bfloat16) if t.dtype is torch.int16 else t for name, t in tensors.items()}
