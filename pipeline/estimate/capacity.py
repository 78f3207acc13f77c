"""A capacity model: what an iteration costs in memory and seconds on a kind of machine.

Arithmetic and memory traffic at fixed shares of what the hardware can do (`Assumptions`): an estimate to
choose hardware by, not a measurement. Sizes are in bytes, speeds per second. Sampling and learning are taken
to follow each other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

GIB = 2**30
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Assumptions:
    """Shares of the hardware that are reached."""

    decode_bandwidth: float = 0.6
    decode_flops: float = 0.4
    decode_overlaps: bool = True
    """Whether a decoding step computes while it reads; if not, it takes as long as both."""
    prefill_flops: float = 0.4
    learn_flops: float = 0.35
    push_bandwidth: float = 4e9
    """Bytes per second from learner to engine through shared memory."""
    nccl_bandwidth: float = 2e10
    """Bytes per second from the learner's GPU to those of the engines, as over PCIe 4; NVLink is faster."""
    host_bandwidth: float = 2e10
    """Bytes per second between a GPU and host memory."""


CPU_ASSUMPTIONS = Assumptions(
    decode_bandwidth=0.54, decode_flops=0.54, decode_overlaps=False, prefill_flops=0.9, learn_flops=0.9
)
"""A CPU's matrix products are measured, and nearly reached where many tokens are computed together: by the
learner of SmolLM2 to
0.98, by the engine's prefill to 0.8 to 1.1. Its decoding steps took 67, 102, 112, 187 and 281 ms for 1, 4, 8,
16 and 32 sequences (2026-11-26, one thread, 71 GFLOP/s and 19 GB/s): 52 ms to read the weights, 10 of
`step_overhead`, and 7 a sequence."""


@dataclass(frozen=True)
class Device:
    """What one accelerator (or the CPU) can do."""

    name: str
    memory: float
    flops: float
    """Dense multiply-adds, counted twice: in bfloat16, of a CPU in `model_dtype`."""
    bandwidth: float
    step_overhead: float = 0.004
    """Seconds that the engine's own work adds to one decoding step (scheduling, sampling, Python)."""
    source: str = "its vendor's data sheet"
    assumed: Assumptions = Assumptions()


GPUS = {
    "h200": Device("NVIDIA H200", 141e9, 989e12, 4.8e12),
    "h100": Device("NVIDIA H100 SXM 80 GB", 80e9, 989e12, 3.35e12),
    "a100": Device("NVIDIA A100 SXM 80 GB", 80e9, 312e12, 2.04e12),
    "l40s": Device("NVIDIA L40S", 48e9, 362e12, 0.864e12),
    "rtx4090": Device("NVIDIA RTX 4090", 24e9, 165e12, 1.01e12),
}


@dataclass(frozen=True)
class Model:
    """Sizes of a decoder-only transformer."""

    parameters: int
    trained: int
    """Parameters with a gradient: fewer than `parameters` with LoRA."""
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    """Key heads times their width."""
    vocabulary: int

    def kv_bytes(self, dtype_bytes: int) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_width * dtype_bytes


@dataclass(frozen=True)
class Workload:
    """One iteration."""

    rollouts: int
    group_size: int
    turns: float
    turn_tokens: float
    observation_tokens: float
    prompt_tokens: float
    scoring_tokens: float
    """Tokens computed to score one turn: the suffixes of all aliases, and what the prefix cache cannot hold.
    """
    max_context: int
    dtype_bytes: int
    updates: int
    """Optimizer steps per batch."""
    epochs: int
    has_reference: bool
    gradient_checkpointing: bool
    micro_batch_tokens: int
    num_runners: int
    max_num_seqs: int
    tensor_parallel: int
    engine_memory_share: float | None
    """Share of a GPU's memory that the engine takes; None on a CPU."""
    kv_cache: float
    """Bytes of KV cache on a CPU."""
    shares_device: bool
    """Learner and engine use the same memory at the same time."""
    takes_turns: bool = False
    """Learner and engine use one GPU by turns (`colocated`)."""
    num_learners: int = 1
    sharded: bool = False
    """The learners share one model, instead of a copy each."""
    pushes_by_nccl: bool = False
    """Weights go from GPU to GPU (`engine.weight_transfer`)."""

    @property
    def written_tokens(self) -> float:
        """Decision tokens of one rollout."""
        return min(self.turns * self.turn_tokens, self.max_context)

    @property
    def sequence_tokens(self) -> float:
        """Tokens of one rollout that the learner sees."""
        both = self.turns * (self.turn_tokens + self.observation_tokens)
        return min(self.prompt_tokens + both, self.max_context)


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, and seconds of one iteration by phase."""

    memory: dict[str, float]
    seconds: dict[str, float]
    engine_capacity: float
    """Whole sequences that the KV cache holds at once."""
    fits: bool

    @property
    def seconds_per_iteration(self) -> float:
        return sum(self.seconds.values())


def estimate(model: Model, work: Workload, device: Device) -> Estimate:
    """What `work` with `model` costs on `device`."""
    assumed = device.assumed
    memory, capacity, fits = _memory(model, work, device)
    together = max(1.0, min(work.max_num_seqs, work.rollouts / work.num_runners, capacity))
    bandwidth = assumed.nccl_bandwidth if work.pushes_by_nccl else assumed.push_bandwidth
    seconds = {
        "generate": _generate(model, work, device, assumed, together),
        "prefill": _prefill(model, work, device, assumed),
        "score": _score(model, work, device, assumed),
        "learn": _learn(model, work, device, assumed),
        "push": model.parameters * work.dtype_bytes / bandwidth,
        "swap": _swap(memory, assumed) if work.takes_turns else 0.0,
    }
    return Estimate(memory, seconds, capacity, fits)


def _generate(model: Model, work: Workload, device: Device, assumed: Assumptions, together: float) -> float:
    """Each step reads all weights and the keys and values of every sequence, and computes."""
    tokens = work.rollouts * work.written_tokens
    steps = tokens / (work.num_runners * together)
    read = model.parameters * work.dtype_bytes + together * work.sequence_tokens / 2 * model.kv_bytes(
        work.dtype_bytes
    )
    traffic = read / work.tensor_parallel / (device.bandwidth * assumed.decode_bandwidth)
    arithmetic = (
        2 * model.parameters * together / work.tensor_parallel / (device.flops * assumed.decode_flops)
    )
    busy = max(traffic, arithmetic) if assumed.decode_overlaps else traffic + arithmetic
    return steps * (busy + device.step_overhead)


def _prefill(model: Model, work: Workload, device: Device, assumed: Assumptions) -> float:
    """Prompts once per group, observations once: the prefix cache has the rest."""
    observed = work.rollouts * max(0.0, work.sequence_tokens - work.written_tokens - work.prompt_tokens)
    tokens = observed + work.rollouts / work.group_size * work.prompt_tokens
    return _forward(model, tokens, work) / (device.flops * assumed.prefill_flops)


def _score(model: Model, work: Workload, device: Device, assumed: Assumptions) -> float:
    return _forward(model, work.rollouts * work.turns * work.scoring_tokens, work) / (
        device.flops * assumed.prefill_flops
    )


def _forward(model: Model, tokens: float, work: Workload) -> float:
    """Floating-point operations of the engines' forward over `tokens`, spread over the engines."""
    return 2 * model.parameters * tokens / (work.num_runners * work.tensor_parallel)


def _learn(model: Model, work: Workload, device: Device, assumed: Assumptions) -> float:
    """Forward 2, backward 4 operations per parameter and token (2 where the parameter is frozen), and every
    extra forward.
    """
    tokens = work.rollouts * work.sequence_tokens
    attention = 2 * 2 * model.layers * model.hidden * work.sequence_tokens / 2
    forward = 2 * model.parameters + attention
    backward = forward + 2 * model.trained + attention
    recomputed = forward if work.gradient_checkpointing else 0.0
    before = (forward if work.updates > 1 else 0.0) + (forward if work.has_reference else 0.0)
    operations = tokens * (work.epochs * (forward + backward + recomputed) + before)
    return operations / (work.num_learners * device.flops * assumed.learn_flops)


def _swap(memory: dict[str, float], assumed: Assumptions) -> float:
    """The learner's state goes to host memory and comes back, gradients (a third of what AdamW needs)
    excepted.
    """
    moved = (
        memory["learner: weights"]
        + memory["learner: reference"]
        + memory["learner: gradients and AdamW"] * 2 / 3
    )
    return 2 * moved / assumed.host_bandwidth


def _memory(model: Model, work: Workload, device: Device) -> tuple[dict[str, float], float, bool]:
    weights = model.parameters * work.dtype_bytes / work.tensor_parallel
    frozen = model.parameters - model.trained
    share = work.engine_memory_share
    cache = work.kv_cache if share is None else max(0.0, share * device.memory - weights)
    per_layer = 8 * model.hidden + 2 * model.kv_width + 4 * model.intermediate
    layers = (
        model.layers * model.hidden + per_layer if work.gradient_checkpointing else model.layers * per_layer
    )
    sharers = work.num_learners if work.sharded else 1
    learner = {
        "learner: weights": (4.0 * model.trained + frozen * work.dtype_bytes) / sharers,
        "learner: gradients and AdamW": 12.0 * model.trained / sharers,
        "learner: reference": model.parameters * work.dtype_bytes / sharers
        if work.has_reference and model.trained == model.parameters
        else 0.0,
        "learner: activations": float(work.micro_batch_tokens * layers * work.dtype_bytes),
        "learner: logits": 3.0 * min(work.micro_batch_tokens * model.vocabulary, 2**25) * 4,
    }
    engine = {"engine: weights": weights, "engine: KV cache": cache}
    capacity = cache / (work.sequence_tokens * model.kv_bytes(work.dtype_bytes) / work.tensor_parallel)
    sizes = (sum(engine.values()), sum(learner.values()))
    fits = sum(sizes) <= device.memory if work.shares_device else max(sizes) <= device.memory
    return engine | learner, capacity, fits and capacity >= 1


def this_cpu(threads: int, dtype: str = "float32") -> Device:
    """The machine's own CPU: a matrix product of `dtype` and a sum over memory, as decoding reads it,
    measured for a moment.
    """
    import psutil
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
    memory = float(psutil.virtual_memory().total)
    return Device(
        f"this CPU, {threads} threads",
        memory,
        flops,
        bandwidth,
        0.01,
        "a moment's measurement",
        CPU_ASSUMPTIONS,
    )


def _best(function, threads: int, repeats: int = 5) -> float:
    """Seconds of processor time for each thread: what other work takes from the machine at this moment is not
    its speed.
    """
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append((time.process_time() - started) / threads)
    return min(times)
