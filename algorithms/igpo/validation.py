"""Checks of an `IGPOConfig`: bounds of numbers, impossible combinations, and the policies of the roles."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any, get_args

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.policy.policy import PolicySpec

from algorithms.igpo.bounds import (
    POSITIVE,
    REAL_FROM,
    SHARES,
    WHOLE_FROM,
    check_number,
)
from algorithms.igpo.learner.lr_schedule import LRDecay
from algorithms.igpo.setting_names import OF_ONE_POLICY, WITHOUT_EFFECT
from algorithms.igpo.weights.colocation import check_colocation
from envs.errors import InputError
from envs.search.roles import RolePolicies

if TYPE_CHECKING:
    from algorithms.igpo.settings import IGPOSettings


CLIPPED_BY = ("value", "norm", "global_norm")


def check_effects(config: IGPOSettings, defaults: IGPOSettings) -> None:
    """Raises InputError for a setting of RLlib that differs from its default and would do nothing."""
    known = vars(defaults)
    for name, instead in WITHOUT_EFFECT.items():
        if name in known and vars(config)[name] != known[name]:
            raise InputError(f"`{name}` has no effect here: {instead}")


def check_combinations(config: IGPOSettings) -> None:
    """Raises InputError for the first combination that cannot work."""
    if not isinstance(config.model_path, str | PathLike | None):
        raise InputError(f"model_path is {config.model_path!r}; it must be text: a folder or a model's name")
    if config.max_weight_lag:
        _check_weight_lag(config)
    if config.is_colocated:
        check_colocation(config)
    if config.engine_settings.weight_transfer == "nccl":
        _check_transfer_by_nccl(config)
    config.adapters.check(config.engine_settings)
    _check_engine_gpus(config)
    if config.shard_learner:
        _check_sharding(config)
    one_update = config.num_epochs * config.num_minibatches == 1
    # At lag 1 the mismatch weight differs from token to token, and the sequence's ratio averages over them.
    if config.preset_settings.needs_several_updates and one_update and not config.max_weight_lag:
        raise InputError(
            f"preset {config.preset} with one update per batch would be grpo: set num_epochs or "
            "num_minibatches above 1, or max_weight_lag to 1"
        )
    if config.reference_refresh_interval:
        _check_refresh(config)
    if config.grad_clip_by not in CLIPPED_BY:
        raise InputError(f"grad_clip_by is {config.grad_clip_by!r}; use one of {', '.join(CLIPPED_BY)}")
    _check_optimizer(config)
    for policy in config.algorithm_config_overrides_per_module:
        one = config.of_policy(policy)
        with _told_of(policy):
            _check_optimizer(one)
            if one.max_weight_lag:
                _check_weight_lag(one)


def _check_optimizer(config: IGPOSettings) -> None:
    betas = config.adam_betas
    pair = isinstance(betas, list | tuple) and len(betas) == 2
    if not pair or not all(isinstance(b, Real) and not isinstance(b, bool) and 0 <= b < 1 for b in betas):
        raise InputError(f"adam_betas is {betas!r}; it must be two numbers from 0 to below 1")
    if config.lr_decay not in get_args(LRDecay):
        raise InputError(f"lr_decay is {config.lr_decay!r}; use one of {', '.join(get_args(LRDecay))}")
    if isinstance(config.lr, list) and (config.lr_warmup_iterations or config.lr_decay != "none"):
        raise InputError(
            "lr is a schedule of its own: leave out lr_warmup_iterations and lr_decay, or give lr as a number"
        )
    last = config.lr_decay_iterations
    if config.lr_decay != "none" and last is None:
        raise InputError(
            f"lr_decay {config.lr_decay} needs its end: set lr_decay_iterations, often to the same number as "
            "stop.training_iteration"
        )
    if config.lr_decay != "none" and last is not None and last <= config.lr_warmup_iterations:
        raise InputError(
            f"lr_decay_iterations is {last}; it must be above lr_warmup_iterations, "
            f"{config.lr_warmup_iterations}"
        )
    if config.lr_decay == "none" and (last is not None or config.lr_final_share):
        name = "lr_decay_iterations" if last is not None else "lr_final_share"
        raise InputError(f"{name} has no effect without lr_decay: set that to linear or cosine")


def _check_weight_lag(config: IGPOSettings) -> None:
    if config.max_weight_lag != 1:
        raise InputError(
            f"max_weight_lag is {config.max_weight_lag}; use 0, or 1 to sample during the update: more "
            "would only be staler"
        )
    # RLlib also validates a copy for evaluation, which has no runners.
    if config.num_env_runners == 0 and not config.in_evaluation:
        raise InputError("max_weight_lag 1 needs an env runner of its own: set num_env_runners to 1 or more")
    if config.mismatch_cap == 0:
        raise InputError("max_weight_lag 1 needs its importance correction: set mismatch_cap above 0")
    if config.belief_scoring.policy == "current" and not config.belief_scoring.on_engine:
        raise InputError(
            "max_weight_lag 1: the learner is ahead of the policy that sampled; set belief_method to "
            "vllm_prefix"
        )


def _check_transfer_by_nccl(config: IGPOSettings) -> None:
    what = "engine.weight_transfer nccl goes from a learner's GPU to vLLM engines on other GPUs"
    if config.is_colocated:
        raise InputError(f"{what}; engine.placement colocated has them on the same: leave one of them out")
    if config.engine_settings.kind != "vllm":
        raise InputError(f"{what}: set engine.kind to vllm, or use shared_memory")
    for name in ("num_learners", "num_gpus_per_learner", "num_env_runners", "num_gpus_per_env_runner"):
        # RLlib also validates a copy for evaluation, which has no runners.
        is_copy = config.in_evaluation and name == "num_env_runners"
        if getattr(config, name) < 1 and not is_copy:
            raise InputError(
                f"{what}: set {name} to 1 or more, not {getattr(config, name)}, or use shared_memory"
            )


def _check_engine_gpus(config: IGPOSettings) -> None:
    spread, gpus = config.engine_settings.tensor_parallel_size, config.num_gpus_per_env_runner
    takes_none = not gpus and config.num_env_runners and spread > 1
    if takes_none or (gpus > 0 and spread != max(1, gpus)):
        raise InputError(
            f"engine.tensor_parallel_size is {spread} and num_gpus_per_env_runner is {gpus:g}: an engine "
            f"uses as many GPUs as it is spread over, so set both to {max(spread, int(gpus))}"
        )
    if config.num_gpus_per_learner > 1:
        raise InputError(
            f"num_gpus_per_learner is {config.num_gpus_per_learner:g}, and a learner uses one GPU: set it to "
            "1, and num_learners to the number of GPUs that learn"
        )
    cpus: Any = config.num_cpus_per_learner
    if cpus != "auto" and (not isinstance(cpus, Real) or isinstance(cpus, bool) or not 0 <= cpus < math.inf):
        raise InputError(f"num_cpus_per_learner is {cpus!r}; it must be a number, 0 or more, or auto")


def _check_sharding(config: IGPOSettings) -> None:
    if config.num_learners < 2:
        raise InputError(
            "shard_learner spreads the model over learners: set num_learners to 2 or more, not "
            f"{config.num_learners}"
        )
    given = {
        "lora": config.adapters.by_policy,
        "compile_learner": config.compile_learner,
        "reference_refresh_interval": config.reference_refresh_interval,
    }
    for name, value in given.items():
        if value:
            raise InputError(f"shard_learner cannot be combined with {name}: leave one of them out")
    if config.grad_clip_by != "global_norm":
        raise InputError(
            "shard_learner clips gradients by global_norm: leave grad_clip_by out, it is "
            f"{config.grad_clip_by!r}"
        )
    if not config.belief_scoring.on_engine:
        raise InputError(
            "shard_learner cannot score belief on the learner's side: set belief_method to vllm_prefix"
        )


def _check_refresh(config: IGPOSettings) -> None:
    if config.reference_scored_policy is None and not config.policies_with_kl:
        raise InputError(
            "reference_refresh_interval needs a reference: set belief_policy: reference, or kl_coeff above 0 "
            "for a policy that learns"
        )
    if config.adapters.by_policy:
        raise InputError(
            "reference_refresh_interval cannot refresh the base of `lora` adapters: leave one of them out"
        )


def _check_schedule(value: list) -> None:
    """Raises InputError for an `lr` that is not [[0, lr], [env steps, lr], ...]; RLlib checks the order."""
    for point in value:
        pair = isinstance(point, list | tuple) and len(point) == 2
        if not pair or not all(isinstance(x, Real) and math.isfinite(x) and x >= 0 for x in point):
            raise InputError(f"lr is {value!r}; a schedule is [[0, lr], [env steps, lr], ...] of numbers")


def check_numbers(config: IGPOSettings) -> None:
    """Raises InputError for the first number that is out of its bounds."""
    for name in (*WHOLE_FROM, *REAL_FROM, *POSITIVE, *SHARES):
        value = getattr(config, name)
        if name == "lr" and isinstance(value, list):
            _check_schedule(value)
            continue
        check_number(name, value)


def _check_values_of_one(config: IGPOSettings, policy: str) -> None:
    """Raises InputError for a value of one policy alone that the common settings could not have either."""
    one = config.of_policy(policy)
    with _told_of(policy):
        check_numbers(one)
        one.loss_settings()


@contextmanager
def _told_of(policy: str) -> Generator[None]:
    """Names the policy in an InputError about its settings."""
    try:
        yield
    except InputError as error:
        raise InputError(f"`policies` of {policy}: {error}") from error


def map_roles_to_policies(config: IGPOSettings) -> None:
    """Makes the roles' policies and RLlib's multi-agent settings agree, and checks them.

    Without a `policy_mapping_fn` of the user's, `policies` and the mapping are derived from the roles. With
    one, the roles in `env_config` take the policies that it returns.

    Raises:
        InputError: a role's policy is not among `policies`; `policies_to_train` is no list, is empty or names
            an unknown policy; or settings are given for an unknown policy, or to one policy alone that all
            share.
    """
    roles = config.roles
    is_default = config.policy_mapping_fn is AlgorithmConfig.DEFAULT_POLICY_MAPPING_FN
    if is_default or isinstance(config.policy_mapping_fn, RolePolicies):
        policy_of = {role.name: role.policy for role in roles}
        policies = {policy: PolicySpec() for policy in sorted(set(policy_of.values()))}
        config.multi_agent(policies=policies, policy_mapping_fn=RolePolicies(policy_of))
    else:
        mapping: Any = config.policy_mapping_fn
        policy_of = {role.name: mapping(role.name, None) for role in roles}
        config.env_config["roles"] = [{**role.model_dump(), "policy": policy_of[role.name]} for role in roles]
    unknown = sorted(set(policy_of.values()) - set(config.policies))
    if unknown:
        raise InputError(
            f"roles speak through the policies {unknown}, but `policies` has only {sorted(config.policies)}"
        )
    trained = config.policies_to_train
    if isinstance(trained, str):  # RLlib would take its letters for names, and train none
        raise InputError(f"policies_to_train is {trained!r}; it must be a list, such as [{trained}]")
    if isinstance(trained, list | tuple | set) and (not trained or not set(trained) <= set(config.policies)):
        raise InputError(
            f"policies_to_train is {list(trained)}; name one or more of {', '.join(sorted(config.policies))}"
        )
    for policy, own in config.algorithm_config_overrides_per_module.items():
        if policy not in config.policies:
            raise InputError(
                f"`policies` has settings for {policy}, but no role speaks through it; the roles' policies "
                f"are {', '.join(sorted(config.policies))}"
            )
        for name in own:
            if name not in OF_ONE_POLICY:
                raise InputError(
                    f"`policies` sets {name} for {policy} alone; policies may differ in "
                    f"{', '.join(OF_ONE_POLICY)} only"
                )
        _check_values_of_one(config, policy)
