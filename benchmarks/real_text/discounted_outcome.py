r"""The price of `igpo_shaped` on the outcome alone: `grpo`, with GAMMA^searches times the outcome.

    rllib train file conf/smollm2_warm.yaml \
        --set preset=benchmarks.real_text.discounted_outcome:DISCOUNTED_OUTCOME

A control: is it enough to price a search, without belief?
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from algorithms.credit import Group, find_preset

GAMMA = 0.9


def discounted_outcome(group: Group, gamma: float = GAMMA) -> np.ndarray:
    """The z-score over the group of gamma^searches times the outcome, on every turn: [M]."""
    searched_M = np.array(group.actions_M) == "tool"
    searches_N = np.bincount(group.rollout_M, weights=searched_M, minlength=group.num_rollouts)
    outcomes_N = gamma**searches_N * group.outcomes_N
    spread = outcomes_N.std()
    return ((outcomes_N - outcomes_N.mean()) / (spread if spread > 1e-9 else 1.0))[group.rollout_M]


DISCOUNTED_OUTCOME = replace(
    find_preset("grpo"), name="discounted_outcome", source="here", estimator=discounted_outcome
)
