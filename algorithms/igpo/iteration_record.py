"""`IterationRecord`: one iteration's rollouts and their credit, for logs and trackers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from algorithms.credit import Credit, GroupStatistics, ScoredBatch
from envs.search.trajectory import Rollout


@dataclass(slots=True)
class TurnCredit:
    """Credit of one turn as the learner used it."""

    belief_before: float | None
    """b_{t-1} = exp(s_{t-1}) after the alias rule, in (0, 1]; None where belief was not scored."""
    belief_after: float | None
    """b_t, likewise."""
    gain: float | None
    """g_t; None where the turn bears no gain."""
    normalised_gain: float | None
    """The gain as it enters the return; None where the turn bears no gain."""
    advantage: float
    """A_t of every decision token of the turn."""
    logp_gap_mean: float | None = None
    """Mean |learner log-prob - sampler log-prob| over the turn's decision tokens."""
    logp_gap_L: np.ndarray | None = None
    """Learner log-prob - sampler log-prob of each decision token, before the update; None without
    `log_tokens`."""


@dataclass(slots=True)
class TurnTokens:
    """The token ids of one turn, exactly as the learner trains on them."""

    context_ids_C: np.ndarray
    """Context that is new to the agent: the prompt, or the observations since its last turn."""
    decision_ids_L: np.ndarray
    """The sampled tokens."""
    sampler_logp_L: np.ndarray
    """Log-probs of the sampled tokens under the engine that sampled them."""


@dataclass(slots=True)
class GroupCredit:
    """Statistics of one group: all rollouts of one prompt in one iteration."""

    group_id: str
    question_id: str
    size: int
    outcome_mean: float
    outcome_std: float
    gain_count: int
    gain_mean: float
    """NaN where the group has no gain."""
    gain_std: float
    collapsed_outcome: bool
    """Whether every advantage would be 0 under the outcome alone."""
    collapsed: bool
    """Whether every advantage that training used is 0."""
    collapsed_or_faint: bool
    """Whether the group is `collapsed`, or `collapsed_outcome` with gains whose standard deviation is below
    1e-3 (definitions: From rewards to advantages)."""
    collapsed_or_identical: bool
    """Whether the group is `collapsed`, or all its rollouts are equal token for token."""


@dataclass(slots=True)
class IterationRecord:
    """The rollouts of one iteration and one split."""

    iteration: int
    split: str
    """`train` or `heldout`."""
    weights_version: int
    """Version of the weights that made the rollouts."""
    rollouts: list[Rollout]
    credit: dict[tuple[str, int], TurnCredit] = field(default_factory=dict)
    """By (rollout id, turn index); empty for held-out rollouts."""
    groups: list[GroupCredit] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by phase: generate, tools, score, learn, push, ..."""
    tokens: dict[tuple[str, int], TurnTokens] = field(default_factory=dict)
    """By (rollout id, turn index); empty without `log_tokens`."""
    token_texts: dict[int, str] = field(default_factory=dict)
    """Text of every token id in `tokens`."""


def turn_credits(
    rollouts: Sequence[Rollout], batch: ScoredBatch, credit: Credit
) -> dict[tuple[str, int], TurnCredit]:
    """The credit of every turn of `rollouts`, in whose order `batch` and `credit` are."""
    columns = (
        batch.belief_before_M,
        batch.belief_after_M,
        credit.gains_M,
        credit.normalised_gains_M,
        credit.advantages_M,
    )
    turns = [(rollout.id, turn.index) for rollout in rollouts for turn in rollout.turns]
    return {
        key: TurnCredit(*map(_or_none, others), advantage=float(advantage))
        for key, *others, advantage in zip(turns, *columns, strict=True)
    }


def group_credits(
    firsts: Sequence[Rollout], are_identical: Sequence[bool], statistics: GroupStatistics
) -> list[GroupCredit]:
    """What is noted of each group.

    Args:
        firsts: a rollout of each group, in the order of `statistics`.
        are_identical: whether all rollouts of the group are equal.
        statistics: of the same groups.
    """
    s = statistics
    return [
        GroupCredit(
            group_id=first.group_id,
            question_id=first.question.id,
            size=int(s.size_P[k]),
            outcome_mean=float(s.outcome_mean_P[k]),
            outcome_std=float(s.outcome_std_P[k]),
            gain_count=int(s.gain_count_P[k]),
            gain_mean=float(s.gain_mean_P[k]),
            gain_std=float(s.gain_std_P[k]),
            collapsed_outcome=bool(s.collapsed_outcome_P[k]),
            collapsed=bool(s.collapsed_P[k]),
            collapsed_or_faint=bool(s.collapsed_or_faint_P[k]),
            collapsed_or_identical=bool(s.collapsed_P[k]) or identical,
        )
        for k, (first, identical) in enumerate(zip(firsts, are_identical, strict=True))
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def token_texts(turns: Iterable[TurnTokens], tokenizer: Any) -> dict[int, str]:
    """Decodes every token id in `turns` alone with `tokenizer`."""
    ids = np.concatenate([part for turn in turns for part in (turn.context_ids_C, turn.decision_ids_L)])
    return {i: str(tokenizer.decode([i])) for i in np.unique(ids).tolist()}
