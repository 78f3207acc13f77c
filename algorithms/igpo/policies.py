"""Which policy speaks for which role, on both sides: RLlib's `policies` and `policy_mapping_fn`, and the environment's roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.policy.policy import PolicySpec

from envs.errors import InputError
from envs.search.roles import RolePolicies

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


OVERRIDABLE = ("lr", "grad_clip", "clip_low", "clip_high", "dual_clip", "ratio_level", "kl_coeff", "mismatch_cap")
"""What may differ between policies (RLlib's `algorithm_config_overrides_per_module`); all else is the batch's or the model's."""


def map_roles_to_policies(config: IGPOConfig) -> None:
    """Without an own `policy_mapping_fn`, each role speaks through the policy that its settings name; with one, the roles'
    settings are brought into line with it.

    Raises InputError for a policy that `policies` has not, for `policies_to_train` that names none or an unknown one, and for
    settings of one policy that only all can have.
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
        raise InputError(f"roles speak through the policies {unknown}, but `policies` has only {sorted(config.policies)}")
    trained = config.policies_to_train
    if isinstance(trained, list | tuple | set) and (not trained or not set(trained) <= set(config.policies)):
        raise InputError(f"policies_to_train is {list(trained)}; name one or more of {', '.join(sorted(config.policies))}")
    for policy, overrides in config.algorithm_config_overrides_per_module.items():
        for name in overrides:
            if name not in OVERRIDABLE:
                raise InputError(
                    f"algorithm_config_overrides_per_module sets {name} for {policy} alone; policies may differ in "
                    f"{', '.join(OVERRIDABLE)} only"
                )
