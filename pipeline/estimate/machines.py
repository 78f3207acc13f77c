"""Kinds of machines: what an accelerator or this CPU can do, and the share of it that is reached.

Sizes are in bytes, speeds per second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from envs.memory import total_memory

GIB = 2**30


@dataclass(frozen=True)
class Assumptions:
    """The share of the hardware's peak that is reached, and what is spent beside it.

    Measured on one H200 with a model of 1.5B's shape in bfloat16 (docs/gpu.md, 2026-11-28): `learn_flops` and
    `micro_batch_overhead` from updates of 9 and of 18 micro-batches, `score_overhead` from 256 rollouts with
    and without scores, `push_bandwidth` with SmolLM2. The others are not.
    """

    decode_bandwidth: float = 0.6
    decode_flops: float = 0.4
    decode_overlaps: bool = True
    """Whether a decoding step computes while it reads; if not, it takes as long as both."""
    prefill_flops: float = 0.4
    learn_flops: float = 0.3
    micro_batch_overhead: float = 0.06
    """Seconds of each micro-batch that do not grow with its tokens."""
    score_overhead: float = 0.0012
    """Seconds of each turn's score that do not grow with its tokens: vLLM's runner on GPUs computes the
    output head for every token of a step in which a prompt is scored."""
    push_bandwidth: float = 6e8
    """Bytes per second from learner to engine through shared memory."""
    nccl_bandwidth: float = 2e10
    """Bytes per second from the learner's GPU to those of the engines, as over PCIe 4; NVLink is faster."""
    host_bandwidth: float = 2e10
    """Bytes per second between a GPU and host memory."""


CPU_ASSUMPTIONS = Assumptions(
    decode_bandwidth=0.54,
    decode_flops=0.54,
    decode_overlaps=False,
    prefill_flops=0.9,
    learn_flops=0.9,
    micro_batch_overhead=0.0,
    score_overhead=0.0,
)
"""A CPU's matrix products are measured, and nearly reached where many tokens are computed together: by the
learner of SmolLM2 to 0.98, by the engine's prefill to 0.8 to 1.1. Its decoding steps took 67, 102, 112, 187
and 281 ms for 1, 4, 8, 16 and 32 sequences (2026-11-26, one thread, 71 GFLOP/s and 19 GB/s): 52 ms to read
the weights, 10 of `step_overhead`, and 7 a sequence."""


@dataclass(frozen=True)
class Device:
    """One accelerator, or the CPU with the memory that this process may use."""

    name: str
    memory: float
    flops: float
    """Dense multiply-adds, counted twice: in bfloat16, of a CPU in `model_dtype`."""
    bandwidth: float
    step_overhead: float = 0.007
    """Seconds that the engine's and the loop's own work adds to one decoding step (scheduling, sampling,
    Python): measured on an H200 with 256 sequences, as `Assumptions` says."""
    source: str = "its vendor's data sheet"
    assumed: Assumptions = Assumptions()


GPUS = {
    "h200": Device("NVIDIA H200", 141e9, 989e12, 4.8e12),
    "h100": Device("NVIDIA H100 SXM 80 GB", 80e9, 989e12, 3.35e12),
    "a100": Device("NVIDIA A100 SXM 80 GB", 80e9, 312e12, 2.04e12),
    "l40s": Device("NVIDIA L40S", 48e9, 362e12, 0.864e12),
    "rtx4090": Device("NVIDIA RTX 4090", 24e9, 165e12, 1.01e12),
}


def this_cpu(threads: int, dtype: str = "float32") -> Device:
    """This machine's CPU. Measures, for a moment, a matrix product of `dtype` and a sum over memory."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, other = torch.randn(2, 1024, 1024).to(getattr(torch, dtype))
        block = torch.zeros(2**24)
        flops = 2 * 1024**3 / _best(lambda: one @ other, threads)
        bandwidth = block.nbytes / _best(block.sum, threads)
    finally:
        torch.set_num_threads(before)
    memory = float(total_memory())
    return Device(
        f"this CPU, {threads} threads",
        memory,
        flops,
        bandwidth,
        0.01,
        "a moment's measurement",
        CPU_ASSUMPTIONS,
    )


def _best(function, threads: int) -> float:
    """The least of five times, in seconds of processor time for each thread: other work on the machine does
    not count.
    """
    times = []
    for _ in range(5):
        started = time.process_time()
        function()
        times.append((time.process_time() - started) / threads)
    return min(times)


def on_one_gpu(part: float, number: int) -> int:
    """How many of `number` processes that each take `part` of a GPU come to be on one."""
    return min(number, int(1 / part + 1e-9)) if 0 < part < 1 else 1
