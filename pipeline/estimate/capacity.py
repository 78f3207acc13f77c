"""A capacity model: memory and seconds of one iteration on a kind of machine.

Arithmetic and memory traffic at fixed shares of what the hardware can do (`Assumptions`): an estimate to
choose hardware by, not a measurement. Sampling and learning are taken to follow each other. `igpo doctor` and
the checks before a run read the same memory model.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.estimate.machines import GIB, Assumptions, Device
from pipeline.estimate.model import Model
from pipeline.estimate.workload import DTYPE_BYTES, Workload

FLOAT32 = DTYPE_BYTES["float32"]


@dataclass(frozen=True)
class Memory:
    """Bytes on one device by part; a part's name begins with `engine: ` or `learner: `."""

    parts: dict[str, float]
    engine_capacity: float
    """Whole sequences that an engine's KV cache holds at once."""
    state: float = 0.0
    """Bytes of the learners that do not depend on the rollouts: weights, gradients, AdamW, reference. A step
    has all of them on the device, also where the moments wait in host memory between steps."""
    host: float = 0.0
    """Bytes of host memory in which the state of all learners waits while the engines have the GPUs, on all
    nodes together; 0 where they do not take turns."""

    @property
    def engine(self) -> float:
        """All parts of the engines."""
        return self._sum("engine")

    @property
    def learner(self) -> float:
        """All parts of the learners."""
        return self._sum("learner")

    def by_role(self) -> str:
        """What an engine and a learner need, in words: `igpo estimate`, `igpo doctor` and the check before a
        run say the same.
        """
        return "; ".join(self._role(side) for side in ("engine", "learner"))

    def _role(self, side: str) -> str:
        parts = ((part.removeprefix(f"{side}: "), size) for part, size in self.parts.items() if side in part)
        named = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts if size)
        total = self.engine if side == "engine" else self.learner
        return f"{side} {total / GIB:.1f} GiB ({named})"

    def state_in_words(self) -> str:
        """What the learners need whatever the rollouts."""
        names = ("weights", "gradients", "AdamW", "reference")
        sizes = {name: self.parts[f"learner: {name}"] for name in names}
        named = ", ".join(f"{name} {size / GIB:.1f}" for name, size in sizes.items() if size)
        return f"learners {self.state / GIB:.1f}: {named}"

    def needed(self, work: Workload) -> float:
        """Bytes of the device that needs most: the engines' or the learners', or one that has both."""
        both = work.shares_device or work.meets_on_device
        return self.engine + self.learner if both else max(self.engine, self.learner)

    def _sum(self, side: str) -> float:
        return sum(size for part, size in self.parts.items() if part.startswith(side))


@dataclass(frozen=True)
class Estimate:
    """The memory of one device, and the seconds of one iteration by phase."""

    memory: Memory
    seconds: dict[str, float]
    fits: bool

    @property
    def seconds_per_iteration(self) -> float:
        """All phases, one after the other."""
        return sum(self.seconds.values())


def estimate(model: Model, work: Workload, device: Device) -> Estimate:
    """Estimates `work` with `model` on `device`."""
    assumed, memory = device.assumed, memory_of(model, work, device.memory)
    capacity = memory.engine_capacity
    together = max(1.0, min(work.max_num_seqs, work.rollouts / work.num_runners, capacity))
    bandwidth = assumed.nccl_bandwidth if work.pushes_by_nccl else assumed.push_bandwidth
    seconds = {
        "generate": _generate(model, work, device, assumed, together),
        "prefill": _prefill(model, work, device, assumed),
        "score": _score(model, work, device, assumed),
        "learn": _learn(model, work, device, assumed),
        "push": _pushed(model, work) * work.dtype_bytes / bandwidth,
        "swap": _swap(memory.parts, work, assumed) if work.takes_turns else 0.0,
    }
    fits = memory.needed(work) <= device.memory and capacity >= 1
    return Estimate(memory, seconds, fits)


def _generate(model: Model, work: Workload, device: Device, assumed: Assumptions, together: float) -> float:
    """Each step reads the weights and the keys and values of every sequence, and computes."""
    tokens = work.rollouts * work.written_tokens
    steps = tokens / (work.num_runners * together)
    weights = model.read(together) * work.dtype_bytes / work.tensor_parallel
    cached = together * work.sequence_tokens / 2 * model.kv_bytes(work.dtype_bytes, work.tensor_parallel)
    traffic = (weights + cached) / (device.bandwidth * assumed.decode_bandwidth)
    operations = 2 * model.used * model.parameters * together
    arithmetic = operations / work.tensor_parallel / (device.flops * assumed.decode_flops)
    busy = max(traffic, arithmetic) if assumed.decode_overlaps else traffic + arithmetic
    return steps * (busy + device.step_overhead)


def _prefill(model: Model, work: Workload, device: Device, assumed: Assumptions) -> float:
    """Prompts are computed once per group, observations once; the prefix cache has the rest."""
    observed = work.rollouts * max(0.0, work.sequence_tokens - work.written_tokens - work.prompt_tokens)
    tokens = observed + work.rollouts / work.group_size * work.prompt_tokens
    return _forward(model, tokens, work) / (device.flops * assumed.prefill_flops)


def _score(model: Model, work: Workload, device: Device, assumed: Assumptions) -> float:
    scores = work.rollouts * work.turns
    computed = _forward(model, scores * work.scoring_tokens, work) / (device.flops * assumed.prefill_flops)
    return computed + scores / work.num_runners * assumed.score_overhead


def _forward(model: Model, tokens: float, work: Workload) -> float:
    """Floating-point operations of the engines' forward over `tokens`, spread over the engines."""
    return 2 * model.used * model.parameters * tokens / (work.num_runners * work.tensor_parallel)


def _learn(model: Model, work: Workload, device: Device, assumed: Assumptions) -> float:
    """Forward 2, backward 4 operations per parameter that a token passes (2 where the parameter is frozen),
    and every extra forward.
    """
    tokens = work.rollouts * work.sequence_tokens
    attention = 2 * 2 * model.layers * model.hidden * work.sequence_tokens / 2
    forward = 2 * model.used * model.parameters + attention
    backward = forward + 2 * model.used * model.trained + attention
    recomputed = forward if work.gradient_checkpointing else 0.0
    before = (forward if work.updates > 1 else 0.0) + (forward if work.has_reference else 0.0)
    operations = tokens * (work.epochs * (forward + backward + recomputed) + before)
    micro_batches = work.epochs * max(1.0, tokens / work.num_learners / work.micro_batch_tokens)
    computed = operations / (work.num_learners * device.flops * assumed.learn_flops)
    return computed + micro_batches * assumed.micro_batch_overhead


def _pushed(model: Model, work: Workload) -> float:
    """Parameters that go to an env runner: whole models, and adapters where an engine serves these."""
    return (work.num_policies - work.served_policies) * model.parameters + work.served_parameters


def _swap(memory: dict[str, float], work: Workload, assumed: Assumptions) -> float:
    """Estimates the seconds of moving the learner's state to host memory and back, without gradients.

    An engine that serves adapters keeps its base there meanwhile; another drops its weights.
    """
    moved = memory["learner: weights"] + memory["learner: reference"]
    if work.served_policies:
        moved += memory["engine: weights"]
    if not work.offloads_optimizer:
        moved += memory["learner: AdamW"]
    return 2 * moved / assumed.host_bandwidth


def memory_of(model: Model, work: Workload, device_memory: float) -> Memory:
    """Estimates the memory of one device: of an engine's GPU and of a learner's GPU, or of the machine where
    all of them share its memory.

    Args:
        model: the policy; several policies are of one size, and adapters have one base.
        work: one iteration.
        device_memory: bytes; a GPU's engine takes its share of them.
    """
    share = work.engine_memory_share
    weights = model.parameters * work.dtype_bytes / work.tensor_parallel
    adapters = work.served_parameters * work.dtype_bytes
    cache = work.kv_cache if share is None else max(0.0, share * device_memory - weights - adapters)
    sequence = work.sequence_tokens * model.kv_bytes(work.dtype_bytes, work.tensor_parallel)
    runners = work.num_runners if work.shares_device else work.engines_per_device
    engines = runners * (work.num_policies - max(0, work.served_policies - 1))
    learners = work.num_learners if work.shares_device else work.learners_per_device
    per_part = learners / (work.num_learners if work.sharded else 1)
    trained = work.trained_policies * model.trained * per_part
    base = model.parameters * work.dtype_bytes if work.adapter_policies else 0.0
    state = {
        "learner: weights": 4.0 * (trained + model.frozen * per_part) + base * per_part,
        "learner: gradients": 4.0 * trained,
        "learner: AdamW": 8.0 * trained,
        "learner: reference": work.reference_models * model.parameters * work.dtype_bytes * per_part,
    }
    head = 4.0 * model.vocabulary * model.hidden if model.trained >= model.parameters else 0.0
    chunk = 4.0 * min(work.micro_batch_tokens * model.vocabulary, 2**25)
    of_rollouts = {
        "learner: activations": learners * _activations(model, work),
        "learner: logits": learners * (3.0 * chunk + head),  # and the head's gradient of one chunk
        "learner: autocast": learners * _cast_weights(model, work),
    }
    certain = sum(state.values())
    host = 0.0
    if work.takes_turns:  # gradients are dropped; an engine that serves adapters keeps its base there
        base_of_engine = weights if work.served_policies else 0.0
        host = work.num_learners * (certain - state["learner: gradients"] + base_of_engine)
    if work.offloads_optimizer:  # the moments come when the activations are gone
        state["learner: AdamW"] = max(0.0, state["learner: AdamW"] - sum(of_rollouts.values()))
    return Memory(
        {
            "engine: weights": engines * weights,
            "engine: adapters": runners * adapters,
            "engine: KV cache": engines * cache,
        }
        | state
        | of_rollouts,
        cache / sequence,
        certain,
        host,
    )


def _activations(model: Model, work: Workload) -> float:
    """Returns bytes of a micro-batch: all numbers of every layer, or one vector per layer and one layer's
    numbers.

    As autograd keeps them: of a layer 5 vectors of the hidden width, 3 of the attention's, keys, values and 4
    of the intermediate width in `dtype`; the residual stream and what the norms read in float32. Where
    queries and keys are normalised, both again, in `dtype` and in float32; in a mixture, what each chosen
    expert reads and writes. What SmolLM2 keeps is 1.01 of this, small models of Qwen3's and its mixture's
    kind 1.03, in float32 and in bfloat16 (`python -m benchmarks.learning.kept_tensors`).
    """
    attention = model.attention_width or model.hidden
    experts = 2 * model.chosen_experts if model.expert_parameters else 0
    numbers = (5 + experts) * model.hidden + 3 * attention + 2 * model.kv_width + 4 * model.intermediate
    vectors = 1 if work.dtype_bytes == FLOAT32 else 4
    layer = numbers * work.dtype_bytes + vectors * model.hidden * FLOAT32
    if model.norms_heads:
        layer += (attention + model.kv_width) * (work.dtype_bytes + FLOAT32)
    kept = (
        model.layers * model.hidden * FLOAT32 + layer if work.gradient_checkpointing else model.layers * layer
    )
    return float(work.micro_batch_tokens * kept)


def _cast_weights(model: Model, work: Workload) -> float:
    """Returns bytes of the trained weights in `dtype`, which autograd keeps until the backward pass, also
    where learners share the model. With checkpoints they are those of one layer and of the head.
    """
    if work.dtype_bytes == FLOAT32:
        return 0.0
    head = min(model.trained, float(model.vocabulary * model.hidden))
    layers = model.trained - head
    kept = head + layers / model.layers if work.gradient_checkpointing else model.trained
    return kept * work.dtype_bytes
