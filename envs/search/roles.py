"""Which policy speaks for which role."""

from __future__ import annotations


class RolePolicies:
    """RLlib's `policy_mapping_fn` from the roles of the environment: agent id to module id. Small, and can be pickled."""

    def __init__(self, policy_of: dict[str, str]):
        self.policy_of = policy_of

    def __call__(self, agent_id: str, episode=None, *args, **kwargs) -> str:
        return self.policy_of[agent_id]
