"""`Group`: the rollouts of one prompt, as an estimator of one's own receives them.

Array names end in their dimensions: N rollouts, M turns (those of rollout 0 in time order, then those of
rollout 1, ...), K aliases, T turns of one rollout, L decision tokens of a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from algorithms.credit.batch import Credit
from algorithms.credit.config import CreditConfig
from algorithms.credit.scores import ScoredBatch, ScoredRollout


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """What credit does not read itself of a rollout: texts, documents, and what is known of the question."""

    question: str
    golds: Sequence[str]
    scored_golds_K: Sequence[str]
    hops: int | None
    evidence: Sequence[str]
    metadata: Mapping[str, Any]
    answer: str | None
    termination: str
    actions_T: Sequence[str]
    decisions_T: Sequence[str]
    observations_T: Sequence[str]
    queries_T: Sequence[str | None]
    document_ids_T: Sequence[Sequence[str]]
    gold_hits_T: Sequence[bool | None]
    decision_logps_T: Sequence[np.ndarray | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """The rollouts of one prompt. Columns that end in M have an entry for each turn of all rollouts.

    The same whether it comes from training or from a log, except `decision_logps_M`, which a log has only
    under `log_tokens: true`.
    """

    question: str
    """The question's text."""
    golds: Sequence[str]
    """Its gold answers (aliases)."""
    scored_golds_K: Sequence[str]
    """The K aliases whose belief is scored; empty where the question is played without belief."""
    hops: int | None
    """Reasoning hops that it needs; None where not known."""
    evidence: Sequence[str]
    """Ids of the documents that answer it, in hop order; empty where not known."""
    metadata: Mapping[str, Any]
    """What else the data set says about it."""
    settings: CreditConfig
    """The settings of credit in force. Gains are made and normalised by them; weights, discounts and windows
    act only where the estimator reads them here."""
    batch_outcome_mean: float
    """Mean outcome of the whole batch, each rollout once."""
    batch_outcome_std: float
    """The population standard deviation that belongs to it."""

    rollout_ids_N: Sequence[str]
    """Name of each rollout."""
    turns_N: np.ndarray
    """Number of turns of each rollout, 1 or more."""
    outcomes_N: np.ndarray
    """Outcome of each rollout."""
    normalised_outcomes_N: np.ndarray
    """Outcomes after the baseline that `settings` names: z-scores over the group by default."""
    answers_N: Sequence[str | None]
    """The answer; None where the rollout ended without one."""
    terminations_N: Sequence[str]
    """`answered`, `malformed`, `turn_limit` or `token_limit`."""
    initial_scores_NK: np.ndarray
    """s_0, the score of each alias after the prompt alone, in nats; NaN where it was not scored."""

    rollout_M: np.ndarray
    """Position of the turn's rollout, 0 to N - 1."""
    turn_M: np.ndarray
    """Position of the turn in its rollout in time order, from 0."""
    is_final_M: np.ndarray
    """Whether it is its rollout's last turn, which is paid the outcome and bears no gain."""
    agents_M: Sequence[str]
    """The role that wrote the turn."""
    actions_M: Sequence[str]
    """`tool`, `answer`, `message`, `malformed` or `cut_off`."""
    scores_MK: np.ndarray
    """s_t, the score of each alias after the turn, in nats; NaN where the turn bears no gain."""
    beliefs_before_M: np.ndarray
    """b_{t-1}, in (0, 1]; NaN where belief was not scored."""
    beliefs_after_M: np.ndarray
    """b_t, in (0, 1]; NaN where the turn bears no gain."""
    gains_M: np.ndarray
    """Information gain g_t in the basis that `settings` names; NaN where the turn bears none."""
    normalised_gains_M: np.ndarray
    """Gains normalised as `settings` says; NaN where the turn bears none."""
    decisions_M: Sequence[str]
    """The decision as text."""
    decision_logps_M: Sequence[np.ndarray | None]
    """Log-probabilities of the decision's tokens under the policy that sampled them, float32 [L]; None where
    a log has no tokens."""
    observations_M: Sequence[str]
    """The text that came back; empty after a final turn, except where only room for another was lacking."""
    queries_M: Sequence[str | None]
    """What was searched for; None where nothing was."""
    document_ids_M: Sequence[Sequence[str]]
    """Documents that the turn retrieved, best first."""
    gold_hits_M: np.ndarray
    """1.0 where the turn retrieved a gold document that no earlier turn had, else 0.0; NaN where evidence is
    not known."""

    @property
    def num_rollouts(self) -> int:
        """N."""
        return len(self.rollout_ids_N)

    @property
    def num_turns(self) -> int:
        """M."""
        return len(self.rollout_M)

    def split(self, values_M: Sequence[Any] | np.ndarray) -> list[Any]:
        """Cuts a column of turns into one list or array per rollout."""
        ends = np.cumsum(self.turns_N)
        return [values_M[end - turns : end] for turns, end in zip(self.turns_N, ends, strict=True)]


OwnEstimator = Callable[[Group], Any]
"""A function of one's own: one advantage for each turn of the group, flat [M] or a list of N arrays [T]."""


def make_groups(
    rollouts: Sequence[ScoredRollout],
    facts: Sequence[RolloutFacts],
    scored: ScoredBatch,
    credit: Credit,
    config: CreditConfig,
    batch_outcomes: tuple[float, float],
) -> list[tuple[np.ndarray, Group]]:
    """Makes the `Group` of each prompt of a batch, in the order of `credit.groups`.

    Args:
        rollouts: as given to `turn_batch`.
        facts: one for each of them.
        scored: what `turn_batch` made of them.
        credit: what `assign_credit` made of that, for what is normalised.
        config: the settings of both.
        batch_outcomes: mean and standard deviation of the outcomes of the whole batch.

    Returns:
        Of each group the positions of its turns in the batch, and the group.
    """
    turns = scored.turns
    first_N = turns.last_N - turns.turns_N + 1
    made = []
    for label in credit.groups.group_P:
        members = np.flatnonzero(turns.group_N == label)
        here = np.concatenate([np.arange(first_N[k], turns.last_N[k] + 1) for k in members])
        told, own = [facts[k] for k in members], [rollouts[k] for k in members]
        aliases = len(told[0].scored_golds_K)
        made.append(
            (
                here,
                Group(
                    question=told[0].question,
                    golds=told[0].golds,
                    scored_golds_K=told[0].scored_golds_K,
                    hops=told[0].hops,
                    evidence=told[0].evidence,
                    metadata=told[0].metadata,
                    settings=config,
                    batch_outcome_mean=batch_outcomes[0],
                    batch_outcome_std=batch_outcomes[1],
                    rollout_ids_N=[rollout.id for rollout in own],
                    turns_N=turns.turns_N[members],
                    outcomes_N=turns.outcome_N[members],
                    normalised_outcomes_N=credit.normalised_outcome_N[members],
                    answers_N=[fact.answer for fact in told],
                    terminations_N=[fact.termination for fact in told],
                    initial_scores_NK=_rows([rollout.initial_scores_K for rollout in own], aliases),
                    rollout_M=np.repeat(np.arange(members.size), turns.turns_N[members]),
                    turn_M=here - first_N[turns.rollout_M[here]],
                    is_final_M=here == turns.last_N[turns.rollout_M[here]],
                    agents_M=[agent for rollout in own for agent in rollout.agents_T],
                    scores_MK=_rows(
                        [
                            scores if bears else None
                            for rollout in own
                            for scores, bears in zip(rollout.scores_T1K, rollout.bears_gain_T, strict=True)
                        ],
                        aliases,
                    ),
                    beliefs_before_M=scored.belief_before_M[here],
                    beliefs_after_M=scored.belief_after_M[here],
                    gains_M=credit.gains_M[here],
                    normalised_gains_M=credit.normalised_gains_M[here],
                    actions_M=_column(told, "actions_T"),
                    decisions_M=_column(told, "decisions_T"),
                    decision_logps_M=_column(told, "decision_logps_T"),
                    observations_M=_column(told, "observations_T"),
                    queries_M=_column(told, "queries_T"),
                    document_ids_M=_column(told, "document_ids_T"),
                    gold_hits_M=np.array(
                        [np.nan if hit is None else float(hit) for hit in _column(told, "gold_hits_T")]
                    ),
                ),
            )
        )
    return made


def _column(facts: Sequence[RolloutFacts], name: str) -> list[Any]:
    """The values of all turns, rollout after rollout."""
    return [value for fact in facts for value in getattr(fact, name)]


def _rows(scores: Sequence[Sequence[float] | np.ndarray | None], aliases: int) -> np.ndarray:
    """One row of scores per entry, NaN where there are none."""
    return np.array(
        [np.full(aliases, np.nan) if row is None else row for row in scores], dtype=np.float64
    ).reshape(len(scores), aliases)
