"""`igpo_returns` with belief discounted by each further search, so that asking what one knows costs.

    rllib train file conf/smollm2_warm.yaml --set preset=benchmarks.real_text.discounted:DISCOUNTED

The reward of a search is GAMMA b_t - b_{t-1} in place of its gain, summed with GAMMA: the potential-based
shaping of Ng, Harada and Russell (1999), with belief as the potential. At a GAMMA of 1 it is `igpo_returns`.
It was tried against a useless third search, and did not help (docs/real_model.md).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from algorithms.credit import Group, find_preset

GAMMA = 0.95


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


DISCOUNTED = replace(find_preset("igpo_returns"), name="discounted", source="here", estimator=discounted)
