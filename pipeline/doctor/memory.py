"""The check of memory: what an engine and a learner need, and what the device of each has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.memory import free_memory
from pipeline.doctor.findings import Finding, Subject
from pipeline.estimate.capacity import Memory, memory_of
from pipeline.estimate.machines import GIB, GPUS
from pipeline.estimate.model import Model
from pipeline.estimate.workload import Expected, Workload, workload_of
from pipeline.ray_address import named_cluster

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def memory(subject: Subject) -> Finding:
    """Compares the memory that `igpo estimate` expects with what is here: for a run on GPUs each role's with
    one GPU, else all of it with the memory that is free to this process.

    Fails only where it is certain that the run cannot start: the learner's state (weights, gradients, AdamW's
    moments, reference) or an engine does not fit. On a GPU an engine takes the share that it is given. A run
    that joins a cluster is only warned, because the memory of this machine is not the cluster's.
    """
    if subject.model is None:
        return Finding("memory", "ok", "not estimated: the sizes of the model are not known")
    config = subject.config
    takes_gpus = bool(config.num_gpus_per_env_runner or config.num_gpus_per_learner)
    work = workload_of(config, Expected(), on_cpu=not takes_gpus)
    total = _smallest_gpu() if takes_gpus else float(free_memory())
    if takes_gpus and not total:
        return _without_a_gpu(subject.model, work, config)
    found = memory_of(subject.model, work, total)
    finding = _on_gpus(found, work, config, total) if takes_gpus else _on_host(found, work, config, total)
    if finding.status == "fail" and (cluster := named_cluster(None)) is not None:
        return Finding("memory", "warn", f"{finding.message}; not looked at: the machines of {cluster}")
    return finding


def _on_gpus(found: Memory, work: Workload, config: IGPOConfig, total: float) -> Finding:
    text = f"on each role's GPU about {found.by_role()}; a GPU here has {total / GIB:.1f} GiB"
    size = "gpu_memory_utilization" if config.engine_settings.kv_cache_gib is None else "kv_cache_gib"
    if lack := _no_room(found, work, config):
        return Finding("memory", "fail", f"{text}: {lack}; raise engine.{size} or lower max_context_tokens")
    learner, certain = (found.learner, found.state) if config.num_gpus_per_learner else (0.0, 0.0)
    if work.meets_on_device:
        learner, certain = learner + found.engine, certain + found.engine
    if config.num_gpus_per_env_runner and found.engine > total:
        sharing = f"{work.engines_per_device} engines share a GPU"
        return Finding("memory", "fail", f"{text}: lower engine.{size}: {sharing}")
    if certain > total:
        placed = "`igpo estimate FILE --gpus N` proposes a placement that fits"
        needs = f"{certain / GIB:.1f} GiB are needed whatever the rollouts"
        return Finding("memory", "fail", f"{text}; {needs}: {_advice(found, config)}; {placed}")
    if learner > 0.8 * total:
        needs = f"{learner / GIB:.1f} GiB are over 80% of it"
        return Finding("memory", "warn", f"{text}; {needs}: {_advice(found, config, with_rollouts=True)}")
    return Finding("memory", "ok", text)


def _on_host(found: Memory, work: Workload, config: IGPOConfig, total: float) -> Finding:
    both = f"{(found.engine + found.learner) / GIB:.1f} GiB"
    free = f"{total / GIB:.1f} GiB"
    text = f"about {both} of {free} free memory, all engines and learners: {found.by_role()}"
    if lack := _no_room(found, work, config):
        return Finding(
            "memory", "fail", f"{text}: {lack}; raise engine.kv_cache_gib or lower max_context_tokens"
        )
    engines = found.engine
    if config.engine_settings.kind != "vllm":
        engines -= found.parts["engine: KV cache"]  # it grows with the rollouts that are under way
    if engines + found.state > total:
        needs = (
            f"{(engines + found.state) / GIB:.1f} GiB are needed whatever the rollouts and {free} are free"
        )
        parts = f"engines {engines / GIB:.1f}; {found.state_in_words()}"
        return Finding("memory", "fail", f"{needs} ({parts}): {_advice(found, config)}")
    if engines + found.learner > 0.8 * total:
        needs = f"{(engines + found.learner) / GIB:.1f} GiB are over 80% of {free}"
        return Finding("memory", "warn", f"{text}; {needs}: {_advice(found, config, with_rollouts=True)}")
    return Finding("memory", "ok", text)


def _advice(found: Memory, config: IGPOConfig, *, with_rollouts: bool = False) -> str:
    """What to change, the setting that saves most first.

    Args:
        found: the parts.
        config: the run's settings; what is set already is not advised.
        with_rollouts: also what lowers the memory of a micro-batch.
    """
    size = found.parts
    on_host = not config.num_gpus_per_env_runner
    can_shard = config.num_learners > 1 and not config.shard_learner and not on_host
    savings = {
        "set shard_learner": found.state * (1 - 1 / config.num_learners) if can_shard else 0.0,
        "set `lora`": 0.0 if config.lora else size["learner: gradients"] + size["learner: AdamW"],
        "set kl_coeff=0, which needs no reference": size["learner: reference"]
        if config.policies_with_kl and config.reference_scored_policy is None
        else 0.0,
        "lower engine.kv_cache_gib or num_env_runners": size["engine: KV cache"]
        if on_host and config.engine_settings.kind == "vllm"
        else 0.0,
        "lower tokens_per_micro_batch": size["learner: activations"] + size["learner: logits"]
        if with_rollouts
        else 0.0,
    }
    helpful = sorted((words for words, saved in savings.items() if saved), key=lambda words: -savings[words])
    return ", ".join([*helpful, "or take a smaller model"])


def _no_room(found: Memory, work: Workload, config: IGPOConfig) -> str:
    """Says that an engine holds no whole rollout; empty where it does."""
    if config.engine_settings.kind != "vllm" or found.engine_capacity >= 1:
        return ""
    return f"an engine's KV cache cannot hold a rollout of {work.sequence_tokens:,.0f} tokens"


def _without_a_gpu(model: Model, work: Workload, config: IGPOConfig) -> Finding:
    """Compares with kinds of GPUs: a head node of a cluster often has none, and a laptop plans for one."""
    fits, short = [], []
    for name, device in GPUS.items():
        found = memory_of(model, work, device.memory)
        if found.needed(work) <= device.memory and not _no_room(found, work, config):
            fits.append(name)
        elif _on_gpus(found, work, config, device.memory).status != "fail":
            short.append(name)
    largest = max(GPUS.values(), key=lambda device: device.memory)
    sizes = memory_of(model, work, largest.memory).by_role()
    text = f"this machine has no GPU; on each role's {largest.name} about {sizes}"
    if not fits and not short:
        advice = "`igpo estimate FILE --gpus N` proposes a placement that fits"
        return Finding("memory", "warn", f"{text}; too much for every kind of GPU that is known; {advice}")
    verdict = f"fits on {', '.join(fits) or 'none of the kinds that are known'}"
    if short:
        verdict += f", and with short rollouts on {', '.join(short)}"
    unseen = "not looked at: the GPUs of the run"
    return Finding("memory", "ok" if fits else "warn", f"{text}; {verdict}; {unseen}")


def _smallest_gpu() -> float:
    """Bytes of the smallest GPU of this machine; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    sizes = (
        torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
    )
    return float(min(sizes, default=0.0))
