"""Where a benchmark computes: its device, a clock that waits for it, what it can do at best, and the
operations that a model needs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.estimate.machines import GPUS


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: the GPU where there is one, else the CPU"
    )


def device_of(name: str | None) -> torch.device:
    """The device called `name`, or the best one here. Ends the benchmark where there is no such device."""
    here = torch.cuda.is_available()
    if name == "cuda" and not here:
        raise SystemExit("--device cuda: torch finds no GPU here")
    return torch.device("cuda" if here and name != "cpu" else "cpu")


def seconds_on(device: torch.device, function: Callable[[], object]) -> float:
    """Seconds of a call: on a GPU by the clock until the device has finished, on a CPU of this process's
    processor time, which other work on the machine leaves alone.
    """
    if device.type == "cpu":
        started = time.process_time()
        function()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak_flops(device: torch.device) -> float | None:
    """Dense operations per second in bfloat16, by the vendor's data sheet; None where it is not known."""
    if device.type == "cpu":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "")
    return next((known.flops for kind, known in GPUS.items() if kind in name), None)


def device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


@dataclass(frozen=True)
class Shape:
    """What decides the operations of a model."""

    body: int
    """Parameters without embedding and output head."""
    head: int
    """Parameters of the output head."""
    layers: int
    width: int
    """Heads times their width."""

    @classmethod
    def of(cls, model) -> Shape:
        """The shape of a Hugging Face causal language model."""
        config = model.config
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        outside = embedding.numel() + (0 if head is embedding else head.numel())
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            sum(parameter.numel() for parameter in model.parameters()) - outside,
            head.numel(),
            config.num_hidden_layers,
            config.num_attention_heads * width,
        )


def update_flops(shape: Shape, lengths_R: np.ndarray, targets: int) -> float:
    """Operations that one update needs, forward and backward: what a formula of the model says, whatever is
    computed besides (padding, activations once more, other forward passes).

    Each parameter multiplies and adds once forward and twice backward: 6 operations for each token, those of
    the output head for each target only. Causal attention multiplies queries with keys and weights with
    values, over half of the square: 2 * 2 * width * length^2 / 2 in each layer forward, three times that in
    all.
    """
    tokens = float(lengths_R.sum())
    squares = float((lengths_R.astype(np.float64) ** 2).sum())
    return 6 * shape.body * tokens + 6 * shape.head * targets + 6 * shape.layers * shape.width * squares
