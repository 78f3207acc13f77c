"""What one iteration leaves behind for logs and trackers: rollouts, and the credit that training
really used."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from envs.search.trajectory import Rollout


@dataclass(slots=True)
class TurnCredit:
    """Credit of one turn as the learner used it.

    `gain` and `normalised_gain` are None where the turn bears no gain.
    """

    belief_before: float | None
    """b_{t-1} = exp(s_{t-1}) after the alias rule, in (0, 1]."""
    belief_after: float | None
    gain: float | None
    normalised_gain: float | None
    advantage: float
    logp_gap_mean: float | None = None
    """Mean |learner log-prob - sampler log-prob| over the turn's decision tokens."""
    logp_gap_L: np.ndarray | None = None
    """Learner log-prob - sampler log-prob of each decision token, before the update; kept only under
    `log_tokens`."""


@dataclass(slots=True)
class TurnTokens:
    """The token ids of one turn, as they are trained on."""

    context_ids_C: np.ndarray
    """What the agent had not seen before: the prompt, or what came back since its last turn."""
    decision_ids_L: np.ndarray
    sampler_logp_L: np.ndarray


@dataclass(slots=True)
class GroupCredit:
    """Statistics of one group (all rollouts of one prompt in one iteration)."""

    group_id: str
    question_id: str
    size: int
    outcome_mean: float
    outcome_std: float
    gain_count: int
    gain_mean: float
    gain_std: float
    collapsed_outcome: bool
    """Every advantage would be 0 under the outcome alone."""
    collapsed: bool
    """Every advantage that training used is 0."""
    collapsed_or_faint: bool
    """`collapsed`, or collapsed under the outcome and the gains' standard deviation is below 1e-3 (SPEC §4).
    """


@dataclass(slots=True)
class IterationRecord:
    """One iteration's rollouts of one split.

    `credit` is keyed by (rollout id, turn index); empty for evaluation rollouts.
    """

    iteration: int
    split: str
    weights_version: int
    rollouts: list[Rollout]
    credit: dict[tuple[str, int], TurnCredit] = field(default_factory=dict)
    groups: list[GroupCredit] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds per phase: generate, tools, score, learn, push, ..."""
    tokens: dict[tuple[str, int], TurnTokens] = field(default_factory=dict)
    """By (rollout id, turn index); empty unless `log_tokens` asks for it."""
    token_texts: dict[int, str] = field(default_factory=dict)
    """Token id to text, of every id in `tokens`."""
