"""`IGPOConfig`: everything that an experiment file's `config:` may say."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

TOKENS = gym.spaces.Sequence(gym.spaces.Discrete(2**31 - 1))
"""Observations and actions are sequences of token ids."""


class IGPOConfig(AlgorithmConfig):
    """Configuration of `IGPO`. Credit and loss settings left at None take the value of `preset`."""

    def __init__(self, algo_class=None):
        from algorithms.igpo.algorithm import IGPO

        super().__init__(algo_class=algo_class or IGPO)
        # The policy.
        self.model_path: str | None = None
        """A Hugging Face folder, or `tiny` for the warm-started policy that ships with the package."""
        self.model_dtype = "float32"
        # The batch of one iteration.
        self.prompts_per_iteration = 16
        self.group_size = 8
        # Credit (SPEC 2 and 4).
        self.preset = "igpo"
        self.gain_basis: str | None = None
        self.normalisation: str | None = None
        self.outcome_gamma: float | None = None
        self.ig_weight: float | None = None
        self.outcome_weight: float | None = None
        self.depth_rescale: str | None = None
        self.ig_gate: str | None = None
        # Loss (SPEC 5).
        self.ratio_level: str | None = None
        self.clip_low: float | None = None
        self.clip_high: float | None = None
        self.dual_clip: float | None = None
        self.kl_coeff: float | None = None
        self.entropy_coeff: float | None = None
        self.loss_aggregation: str | None = None
        self.mismatch_cap = 2.0
        """C of the mismatch weight w = min(pi_old / pi_sampler, C); 0 turns the weight off (still logged)."""
        self.num_minibatches = 1
        self.tokens_per_micro_batch = 4096
        self.max_logp_gap: float | None = None
        """Largest mean |log-prob gap| between sampler and learner; None: 1e-4 for float32, 0.05 for bfloat16."""
        # The rollout engine (one per env runner).
        self.engine: dict[str, Any] = {}
