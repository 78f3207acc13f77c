"""`igpo_returns` with belief discounted by each further search, so that asking what one knows costs.

    rllib train file conf/smollm2_warm.yaml --set preset=benchmarks.real_text.discounted:DISCOUNTED

The reward of a search is GAMMA b_t - b_{t-1} in place of its gain, summed with GAMMA: the potential-based
shaping of Ng, Harada and Russell (1999), with belief as the potential. So a search costs a tenth of what is
believed after it: little where the answer is not known, and more where it is. FLOOR keeps this cost small in
groups whose returns hardly differ otherwise. At a GAMMA of 1 and a floor of 0.05 it is `igpo_returns`.

DISCOUNTED_OUTCOME puts the same price on the outcome alone: `grpo`, with GAMMA^searches times the outcome.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from algorithms.credit import Group, find_preset

GAMMA = 0.9
FLOOR = 0.2
"""Least spread of the returns of a group, in probability."""


def discounted(group: Group, gamma: float = GAMMA) -> np.ndarray:
    """The advantage of every turn, [M]; one role."""
    earned_M = gamma * group.beliefs_after_M - group.beliefs_before_M
    rewards_M = np.where(np.isnan(group.gains_M), 0.0, earned_M)
    unanswered_M = group.is_final_M & (np.array(group.terminations_N) != "answered")[group.rollout_M]
    rewards_M[unanswered_M] = -np.nan_to_num(
        group.beliefs_before_M[unanswered_M]
    )  # pays back what it built up
    to_come_M = rewards_M.copy()
    for turn in range(group.num_turns - 2, -1, -1):
        if group.rollout_M[turn] == group.rollout_M[turn + 1]:
            to_come_M[turn] += gamma * to_come_M[turn + 1]
    for index in np.unique(group.turn_M):
        same = group.turn_M == index
        to_come_M[same] -= to_come_M[same].mean()
    spread = float(np.sqrt((to_come_M**2).mean()))
    outcome_M = group.normalised_outcomes_N[group.rollout_M]
    return to_come_M / (max(spread, group.settings.std_floor) + 1e-6) + outcome_M


def discounted_outcome(group: Group, gamma: float = GAMMA) -> np.ndarray:
    """The z-score over the group of gamma^searches times the outcome, on every turn: [M]."""
    searched_M = np.array(group.actions_M) == "tool"
    searches_N = np.bincount(group.rollout_M, weights=searched_M, minlength=group.num_rollouts)
    outcomes_N = gamma**searches_N * group.outcomes_N
    spread = outcomes_N.std()
    return ((outcomes_N - outcomes_N.mean()) / (spread if spread > 1e-9 else 1.0))[group.rollout_M]


_RETURNS = find_preset("igpo_returns")
DISCOUNTED = replace(
    _RETURNS,
    name="discounted",
    source="here",
    credit=replace(_RETURNS.credit, std_floor=FLOOR),
    estimator=discounted,
)
DISCOUNTED_OUTCOME = replace(
    find_preset("grpo"), name="discounted_outcome", source="here", estimator=discounted_outcome
)
