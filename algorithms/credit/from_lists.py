"""`advantages`: credit of a few rollouts that are given as plain lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from algorithms.credit.batch import TurnBatch
from algorithms.credit.config import require_credit_fields
from algorithms.credit.group import RolloutFacts
from algorithms.credit.own_estimator import assign, find_preset, own_preset
from algorithms.credit.presets import Preset
from algorithms.credit.scores import ScoredBatch, ScoredRollout


def advantages(
    outcomes: Sequence[float],
    gains: Sequence[Sequence[float | None]],
    preset: str | Preset | Callable[..., Any] = "igpo",
    *,
    groups: Sequence[int] | None = None,
    last_beliefs: Sequence[float] = (),
    **changes: Any,
) -> list[np.ndarray]:
    """Computes the advantages of every turn of every rollout.

    >>> advantages(outcomes=[1.0, 0.0], gains=[[0.5, 0.2], [0.1]], preset="grpo")
    [array([0.999998, 0.999998, 0.999998]), array([-0.999998, -0.999998])]

    Args:
        outcomes: o_i of each rollout.
        gains: raw information gains g_i,t of each rollout in the preset's basis (`gains_from_scores`), one
            for every turn but the last: T_i = len(gains[i]) + 1. None marks a turn that bears none.
        preset: a name of `PRESETS`, an estimator of one's own as `module:function`, or the function itself.
            Its `Group` holds outcomes, gains and positions; texts are empty, and scores, beliefs and gold
            hits NaN.
        groups: label of each rollout's prompt; None: all rollouts answer the same one.
        last_beliefs: belief after the last gain of each rollout, in (0, 1]; needed by
            `outcome_baseline="belief"` and by `normalisation="returns"` at a gamma below 1.
        changes: settings of `CreditConfig` that replace the preset's, such as `gamma=0.95`.

    Returns:
        One float64 array of length T_i per rollout.

    Raises:
        ValueError: an unknown preset or setting (the message names the nearest or lists the known ones),
            lengths that do not fit, a reward that is not finite, or an estimator of one's own that cannot
            work.
    """
    require_credit_fields(changes)
    chosen = find_preset(preset) if isinstance(preset, str) else own_preset(preset, _name(preset))
    config = replace(chosen.credit, **changes)
    groups = [0] * len(outcomes) if groups is None else groups
    batch = TurnBatch.from_lists(groups, outcomes, gains, last_belief_N=np.asarray(last_beliefs))
    unknown_M = np.full(batch.rollout_M.size, np.nan)
    rollouts, facts = _untold(batch) if chosen.estimator else ([], None)
    credit = assign(chosen, config, rollouts, facts, ScoredBatch(batch, unknown_M, unknown_M))
    return batch.split(credit.advantages_M)


def _name(preset: Any) -> str:
    if isinstance(preset, Preset):
        return preset.name
    return f"{getattr(preset, '__module__', '?')}:{getattr(preset, '__qualname__', repr(preset))}"


def _untold(batch: TurnBatch) -> tuple[list[ScoredRollout], list[RolloutFacts]]:
    """A batch as an estimator of one's own needs it, without scores, texts and documents."""
    rollouts, facts = [], []
    for number, turns in enumerate(batch.turns_N.tolist()):
        here = slice(batch.last_N[number] - turns + 1, batch.last_N[number] + 1)
        rollouts.append(
            ScoredRollout(
                id=str(number),
                group=int(batch.group_N[number]),
                outcome=float(batch.outcome_N[number]),
                initial_scores_K=None,
                scores_T1K=[None] * turns,
                bears_gain_T=batch.gain_bearing_M[here].tolist(),
                agents_T=[""] * turns,
            )
        )
        facts.append(
            RolloutFacts(
                question="",
                golds=[],
                scored_golds_K=[],
                hops=None,
                evidence=[],
                metadata={},
                answer=None,
                termination="answered",
                actions_T=[*["tool"] * (turns - 1), "answer"],
                decisions_T=[""] * turns,
                observations_T=[""] * turns,
                queries_T=[None] * turns,
                document_ids_T=[[]] * turns,
                gold_hits_T=[None] * turns,
                decision_logps_T=[None] * turns,
            )
        )
    return rollouts, facts
