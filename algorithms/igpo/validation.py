"""Settings of an `IGPOConfig` that are good alone and wrong together. What each may be by itself: `algorithms.igpo.bounds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.engine.base import EngineSettings
from envs.errors import InputError

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def check_combinations(config: IGPOConfig) -> None:
    """Raises InputError for the first combination that cannot work."""
    if config.max_weight_lag:
        _check_weight_lag(config)
    if config.is_colocated:
        _check_colocation(config)
    if EngineSettings(**config.engine).weight_transfer == "nccl":
        _check_transfer_by_nccl(config)
    if config.shard_learner:
        _check_sharding(config)
    if config.preset_settings.needs_several_updates and config.num_epochs * config.num_minibatches == 1:
        raise InputError(
            f"preset {config.preset} with one update per batch would be grpo: set num_epochs or num_minibatches above 1"
        )
    if config.reference_refresh_interval:
        _check_refresh(config)


def _check_weight_lag(config: IGPOConfig) -> None:
    if config.max_weight_lag != 1:
        raise InputError(
            f"max_weight_lag is {config.max_weight_lag}; use 0, or 1 to sample during the update: more would only be staler"
        )
    if config.num_env_runners == 0 and not config.in_evaluation:  # RLlib validates a copy for evaluation, without runners
        raise InputError("max_weight_lag 1 needs an env runner of its own: set num_env_runners to 1 or more")
    if config.mismatch_cap == 0:
        raise InputError("max_weight_lag 1 needs its importance correction: set mismatch_cap above 0")
    if config.belief_scoring.policy == "current" and not config.belief_scoring.on_engine:
        raise InputError("max_weight_lag 1: the learner is ahead of the policy that sampled; set scoring to vllm_prefix")


def _check_colocation(config: IGPOConfig) -> None:
    if config.max_weight_lag:
        raise InputError("engine.placement colocated takes turns, max_weight_lag 1 overlaps: leave one of them out")
    if config.num_env_runners > 1 or config.num_learners > 1:
        raise InputError("engine.placement colocated is for one GPU: set num_env_runners to 1 and num_learners to 0 or 1")
    if max(config.num_gpus_per_env_runner, config.num_gpus_per_learner) > 0 and not (
        config.num_gpus_per_env_runner > 0 and 0 < config.num_gpus_per_learner <= 1 - config.num_gpus_per_env_runner
    ):
        raise InputError(
            "engine.placement colocated: num_gpus_per_env_runner and num_gpus_per_learner share one GPU: set both to 0.5"
        )


def _check_transfer_by_nccl(config: IGPOConfig) -> None:
    what = "engine.weight_transfer nccl goes from a learner's GPU to vLLM engines on other GPUs"
    if config.is_colocated:
        raise InputError(f"{what}; engine.placement colocated has one GPU: leave one of them out")
    if EngineSettings(**config.engine).kind != "vllm":
        raise InputError(f"{what}: set engine.kind to vllm, or use shared_memory")
    for name in ("num_learners", "num_gpus_per_learner", "num_env_runners", "num_gpus_per_env_runner"):
        is_copy = config.in_evaluation and name == "num_env_runners"  # RLlib validates a copy for evaluation, without runners
        if getattr(config, name) < 1 and not is_copy:
            raise InputError(f"{what}: set {name} to 1 or more, not {getattr(config, name)}, or use shared_memory")


def _check_sharding(config: IGPOConfig) -> None:
    if config.num_learners < 2:
        raise InputError(
            f"shard_learner spreads the model over learners: set num_learners to 2 or more, not {config.num_learners}"
        )
    for name in ("lora", "compile_learner", "reference_refresh_interval"):
        if getattr(config, name) not in (None, False, 0):
            raise InputError(f"shard_learner cannot be combined with {name}: leave one of them out")
    if config.grad_clip_by != "global_norm":
        raise InputError(f"shard_learner clips gradients by global_norm: leave grad_clip_by out, it is {config.grad_clip_by!r}")
    if not config.belief_scoring.on_engine:
        raise InputError("shard_learner cannot score belief on the learner's side: set scoring to vllm_prefix")


def _check_refresh(config: IGPOConfig) -> None:
    if config.reference_scored_policy is None and config.loss_settings().kl_coeff == 0:
        raise InputError("reference_refresh_interval needs a reference: set scorer: reference, or kl_coeff above 0")
    if config.lora is not None:
        raise InputError("reference_refresh_interval cannot refresh the base of `lora` adapters: leave one of them out")
