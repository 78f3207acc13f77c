"""Which engines and learners to put on N GPUs, and the lines that say so in an experiment file.

Every split of the GPUs into engines and learners is estimated, and an engine and a learner by turns on each
of them. The experiment's own settings are kept where a split fits with them; else what saves memory at the
least cost is set first. Engines get as few GPUs each as hold them, because the traffic between an engine's
GPUs is not in the estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.estimate.capacity import Estimate, estimate
from pipeline.estimate.machines import Device
from pipeline.estimate.model import Model
from pipeline.estimate.workload import Workload

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

ENGINE_SIZES = (1, 2, 4, 8)
"""GPUs that one engine may spread over: those of one machine."""
SHARES = 0.6, 0.4
"""Of a GPU, for an env runner and for a learner, with which Ray can only place several in pairs."""
ENGINE_SHARE = 0.85
"""Of a GPU's memory, where the experiment leaves an engine less than a rollout needs."""


@dataclass(frozen=True)
class Placement:
    """A placement that fits, with its estimate."""

    settings: dict[str, Any]
    """Keys of `config:` with their values; those of `engine` are nested."""
    engines: int
    gpus_per_engine: int
    learners: int
    found: Estimate

    @property
    def lines(self) -> str:
        """The settings as the YAML of an experiment file."""
        return yaml.safe_dump({"config": self.settings}, sort_keys=False, indent=4)


def propose(config: IGPOConfig, model: Model, work: Workload, device: Device, gpus: int) -> Placement | None:
    """The placement on `gpus` GPUs of the kind `device` with the smallest engines, and the shortest iteration
    among those; None where none fits.

    Args:
        config: the experiment; what it cannot be combined with is not proposed.
        model: its model.
        work: one iteration on GPUs.
        device: the kind of GPU.
        gpus: number of them, 1 or more.
    """
    for saved in _savings(work):
        fitting = [
            placement
            for placement in _splits(config, model, replace(work, **saved), device, gpus, saved)
            if placement.found.fits
        ]
        if fitting:
            smallest = min(placement.gpus_per_engine for placement in fitting)
            return min(
                (placement for placement in fitting if placement.gpus_per_engine == smallest),
                key=lambda placement: placement.found.seconds_per_iteration,
            )
    return None


def _savings(work: Workload) -> Iterator[dict[str, Any]]:
    """What to set to save memory, the cheapest first: fields of `Workload`."""
    yield {}
    checkpointing: dict[str, Any] = {}
    if not work.gradient_checkpointing:
        checkpointing = {"gradient_checkpointing": True}
        yield checkpointing
    smaller = {**checkpointing, "micro_batch_tokens": round(work.sequence_tokens)}
    if smaller["micro_batch_tokens"] < work.micro_batch_tokens:
        yield smaller
    if not work.offloads_optimizer:
        yield {**smaller, "offloads_optimizer": True}


_SETTING_OF = {
    "gradient_checkpointing": "gradient_checkpointing",
    "micro_batch_tokens": "tokens_per_micro_batch",
    "offloads_optimizer": "offload_optimizer",
}


def _splits(
    config: IGPOConfig, model: Model, work: Workload, device: Device, gpus: int, saved: dict[str, Any]
) -> Iterator[Placement]:
    """Every split that the settings allow, fitting or not."""
    saving = {_SETTING_OF[name]: value for name, value in saved.items()}
    alone = {"engines_per_device": 1, "learners_per_device": 1, "meets_on_device": False}
    if not (config.max_weight_lag or config.engine_settings.weight_transfer == "nccl"):
        turns = replace(
            work,
            **alone,
            num_runners=gpus,
            num_learners=gpus,
            sharded=False,
            tensor_parallel=1,
            takes_turns=True,
        )
        yield _placed(model, turns, device, saving)
    for size in ENGINE_SIZES:
        if model.heads % size:
            continue
        for engines in range(1, (gpus - 1) // size + 1):
            learners = gpus - engines * size
            sharded = learners > 1 and (config.shard_learner or _may_shard(config))
            split = replace(
                work,
                **alone,
                num_runners=engines,
                num_learners=learners,
                sharded=sharded,
                tensor_parallel=size,
                takes_turns=False,
            )
            yield _placed(model, split, device, saving)


def _may_shard(config: IGPOConfig) -> bool:
    """Whether the experiment's settings go with `shard_learner` (`algorithms.igpo.validation`)."""
    others = (config.adapters.by_policy, config.compile_learner, config.reference_refresh_interval)
    return not any(others) and config.grad_clip_by == "global_norm" and config.belief_scoring.on_engine


def _placed(model: Model, work: Workload, device: Device, saving: dict[str, Any]) -> Placement:
    engine: dict[str, Any] = {"tensor_parallel_size": work.tensor_parallel}
    found = estimate(model, work, device)
    if found.memory.engine_capacity < 1 and (work.engine_memory_share or 0) < ENGINE_SHARE:
        work = replace(work, engine_memory_share=ENGINE_SHARE)
        found, engine = estimate(model, work, device), {**engine, "gpu_memory_utilization": ENGINE_SHARE}
        if work.kv_cache:
            engine["kv_cache_gib"] = None
    of_runner, of_learner = work.tensor_parallel, 1
    if work.takes_turns:
        of_runner, of_learner = (0.5, 0.5) if work.num_learners == 1 else SHARES
    engine["placement"] = "colocated" if work.takes_turns else "separate"
    settings = {
        "num_env_runners": work.num_runners,
        "num_gpus_per_env_runner": of_runner,
        "num_learners": work.num_learners,
        "num_gpus_per_learner": of_learner,
        "shard_learner": work.sharded,
        **saving,
        "engine": engine,
    }
    return Placement(settings, work.num_runners, work.tensor_parallel, work.num_learners, found)
