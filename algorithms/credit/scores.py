"""From the scores of rollouts, fresh or logged, to the `TurnBatch` that `assign_credit` takes.

Array names end in their dimensions: M turns of all rollouts, T turns of one rollout, K aliases.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from algorithms.credit.batch import TurnBatch
from algorithms.credit.config import AliasRule, CreditConfig
from algorithms.credit.gains import beliefs_from_scores, gains_from_scores, reduce_aliases


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRollout:
    """Outcome and scores of one rollout. Scores are mean log-probabilities of gold answers, in nats."""

    id: str
    """Named in errors."""
    group: Hashable
    """Label of the prompt, the same for all of its rollouts."""
    outcome: float
    """o_i."""
    initial_scores_K: Sequence[float] | np.ndarray | None
    """s_0 of each alias, after the prompt alone; None: belief was not scored."""
    scores_T1K: Sequence[Sequence[float] | np.ndarray | None]
    """s_t of each alias after each turn; None where it was not scored. Read on gain-bearing turns only."""
    bears_gain_T: Sequence[bool]
    """Whether the turn bears a gain: it was completed and is not the final one."""
    agents_T: Sequence[str]
    """The agent that wrote the turn."""
    malformed: bool = False
    """Whether the rollout ended malformed."""
    turn_limit: bool = False
    """Whether the rollout spent all its turns without an answer."""
    answered: bool = True
    """Whether the rollout ended with an answer."""
    without_belief: bool = False
    """Whether the question is played without belief: no turn bears a gain, and no score is missing."""


class ScoredBatch(NamedTuple):
    """A `TurnBatch`, and belief around each of its turns, in (0, 1]; NaN where it was not scored."""

    turns: TurnBatch
    belief_before_M: np.ndarray
    """Belief after the last scored moment before the turn."""
    belief_after_M: np.ndarray
    """Belief after the turn; NaN on turns that bear no gain."""


def turn_batch(
    rollouts: Sequence[ScoredRollout], config: CreditConfig, alias_rule: AliasRule = "max"
) -> ScoredBatch:
    """The input of `assign_credit` from scored rollouts.

    A gain-bearing turn without a score has no gain; the gain of the next scored turn bridges it.

    Args:
        rollouts: whole groups, in any order, each rollout with at least one turn.
        config: says how gains are made of scores, and whether they are needed.
        alias_rule: how the scores of several aliases become one.

    Returns:
        The turns of all rollouts in their order, and the beliefs around them.

    Raises:
        ValueError: the estimator reads belief, and the prompt or a gain-bearing turn has no score; or
            whatever `TurnBatch`, `reduce_aliases` and `gains_from_scores` refuse.
    """
    gains = [_gains(rollout, config, alias_rule) for rollout in rollouts]
    gains_M, before_M, after_M = (np.concatenate([g[k] for g in gains] or [np.zeros(0)]) for k in range(3))
    group_of = {group: k for k, group in enumerate(dict.fromkeys(rollout.group for rollout in rollouts))}
    role_of = {agent: k for k, agent in enumerate(sorted({agent for r in rollouts for agent in r.agents_T}))}
    turns = TurnBatch(
        group_N=np.array([group_of[rollout.group] for rollout in rollouts]),
        turns_N=np.array([len(rollout.agents_T) for rollout in rollouts]),
        outcome_N=np.array([rollout.outcome for rollout in rollouts]),
        gains_M=gains_M,
        gain_bearing_M=~np.isnan(gains_M),
        malformed_N=np.array([rollout.malformed for rollout in rollouts]),
        turn_limit_N=np.array([rollout.turn_limit for rollout in rollouts]),
        unanswered_N=np.array([not rollout.answered for rollout in rollouts]),
        without_belief_N=np.array([rollout.without_belief for rollout in rollouts]),
        last_belief_N=np.array([before_T[-1] if len(before_T) else np.nan for _, before_T, _ in gains]),
        role_M=np.array([role_of[agent] for rollout in rollouts for agent in rollout.agents_T]),
        rollout_ids_N=[rollout.id for rollout in rollouts],
    )
    return ScoredBatch(turns, before_M, after_M)


def _gains(
    rollout: ScoredRollout, config: CreditConfig, alias_rule: AliasRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gain, belief before and belief after each turn of a rollout; NaN where there is none."""
    gain_T, before_T, after_T = (np.full(len(rollout.agents_T), np.nan) for _ in range(3))
    if rollout.without_belief:
        return gain_T, before_T, after_T
    bearing = np.flatnonzero(rollout.bears_gain_T)
    scored = [t for t in bearing if rollout.scores_T1K[t] is not None]
    if config.reads_belief and (rollout.initial_scores_K is None or len(scored) < len(bearing)):
        where = "the prompt" if rollout.initial_scores_K is None else "a completed turn"
        raise ValueError(
            f"rollout {rollout.id}: {where} has no belief score, which this estimator reads; turn "
            "belief scoring on in the env runner, or take one of the outcome alone, such as grpo"
        )
    if rollout.initial_scores_K is None:
        return gain_T, before_T, after_T
    scores_T1K = [rollout.initial_scores_K, *(rollout.scores_T1K[t] for t in scored)]
    scores_T1 = reduce_aliases(scores_T1K, alias_rule, episode=rollout.id)
    beliefs_T1 = beliefs_from_scores(scores_T1)
    gain_T[scored] = gains_from_scores(scores_T1, config.gain_basis, config.gap_eps, episode=rollout.id)
    after_T[scored] = beliefs_T1[1:]
    before_T[:] = beliefs_T1[np.searchsorted(scored, np.arange(len(before_T)))]
    return gain_T, before_T, after_T
