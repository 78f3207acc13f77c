"""RLlib's own settings that IGPO needs to be other than RLlib's defaults, and why. An experiment has no reason to change them."""

from __future__ import annotations

from typing import Any

RLLIB_SETTINGS: dict[str, Any] = {
    # Episodes are ragged lists of token ids: made into arrays they would be broadcast, and the stock connectors stack them.
    "episodes_to_numpy": False,
    "add_default_connectors_to_learner_pipeline": False,
    "add_default_connectors_to_env_to_module_pipeline": False,
    "add_default_connectors_to_module_to_env_pipeline": False,
    # A runner holds an engine: none in the driver beside those that sample, and none for evaluation.
    "create_local_env_runner": False,
    # Weights are pushed by `IGPO.push_weights`, which waits and verifies; runners have no other state to share.
    "merge_env_runner_states": False,
    "_dont_auto_sync_env_runner_states": True,
    # RLlib drops a call in silence where an earlier one of its kind is not fetched yet.
    "max_requests_in_flight_per_env_runner": 8,
    # A rollout may be slow; RLlib would throw it away.
    "sample_timeout_s": None,
    "delay_between_env_runner_restarts_s": 0.0,
    # The learner has refused gradients that are not finite already; RLlib would look at each of them again.
    "torch_skip_nan_gradients": True,
}
