"""The five-line call: rewards in, advantages out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from algorithms.credit.assign import assign_credit
from algorithms.credit.batch import TurnBatch
from algorithms.credit.config import CREDIT_FIELDS
from algorithms.credit.presets import get_preset


def advantages(
    outcomes: Sequence[float],
    gains: Sequence[Sequence[float | None]],
    preset: str = "igpo",
    *,
    groups: Sequence[int] | None = None,
    last_beliefs: Sequence[float] = (),
    truncated: Sequence[bool] = (),
    **changes: Any,
) -> list[np.ndarray]:
    """Advantages of every turn of every rollout.

    >>> advantages(outcomes=[1.0, 0.0], gains=[[0.5, 0.2], [0.1]], preset="grpo")
    [array([0.999998, 0.999998, 0.999998]), array([-0.999998, -0.999998])]

    Parameters
    ----------
    outcomes
        o_i of each rollout.
    gains
        Raw information gains g_i,t of each rollout in the preset's basis (`gains_from_scores`), one for every turn
        but the last: T_i = len(gains[i]) + 1. None marks a turn that bears none.
    preset
        A name of `PRESETS`.
    groups
        Label of each rollout's prompt; None: all rollouts answer the same one.
    last_beliefs
        Belief after the last gain of each rollout; needed by `outcome_baseline="belief"` only.
    truncated
        Whether each rollout ended without an answer; read by `truncated_pays_back` only. Empty: none did.
    changes
        Settings of `CreditConfig` that replace the preset's, such as `gamma=0.95`.

    Returns
    -------
    One float64 array of length T_i per rollout.

    Raises
    ------
    ValueError
        An unknown preset or setting (the message lists the known ones), lengths that do not fit, a reward that is not
        finite.
    """
    unknown = sorted(set(changes) - set(CREDIT_FIELDS))
    if unknown:
        raise ValueError(f"unknown credit settings {unknown}; known: {', '.join(CREDIT_FIELDS)}")
    config = replace(get_preset(preset).credit, **changes)
    groups = [0] * len(outcomes) if groups is None else groups
    batch = TurnBatch.from_lists(
        groups, outcomes, gains, last_belief_N=np.asarray(last_beliefs), truncated_N=np.asarray(truncated)
    )
    return batch.split(assign_credit(batch, config).advantages_M)
