"""Belief scoring: the log-probability that the policy gives the gold answers after each moment of a rollout.

A scorer takes `BeliefQuery`s and returns s_t(a) (definitions: Belief and information gain), float64 [T1, K]
for each query: the mean log-prob of the gold tokens at temperature 1, from a float32 log-softmax. All scorers
agree within 1e-4 in float32 on nearly all contexts (docs/training.md says what was seen). `PrefixScorer`
asks a rollout engine. The scorers of `algorithms.igpo.belief` run on the learner's side, on a transformers
model. `RolloutLoop` sends the requests of `PrefixScorer` while rollouts go on.

Array names end in their dimensions: T1 moments (the prompt, then each gain-bearing turn), K aliases, L
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from envs.engine.base import RolloutEngine, ScoreAnswer, Scored
from envs.search.protocols.base import ScoringSuffix
from envs.search.trajectory import Rollout

ScoringPolicy = Literal["current", "reference"]
ScoringMethod = Literal["vllm_prefix", "tree", "naive"]
QUERY = "belief_query"
"""Key of `episode.custom_data` that holds the `BeliefQuery` of a rollout for the learner's side to score."""


@dataclass(frozen=True)
class BeliefScoring:
    """Whose belief is scored, and how."""

    policy: ScoringPolicy
    method: ScoringMethod

    @property
    def on_engine(self) -> bool:
        """Whether the rollout engine scores, else the learner's side."""
        return self.method == "vllm_prefix"


@dataclass(slots=True)
class BeliefQuery:
    """The moments and answers of one rollout to be scored.

    Contexts usually grow from moment to moment, but need not.
    """

    contexts_T1: list[np.ndarray]
    """Ids before each moment's answer, int32 [L], at least one token."""
    suffixes_K: list[ScoringSuffix]
    """The answer template of each alias."""


class PrefixScorer:
    """Scores by requests to an idle rollout engine (`vllm_prefix`).

    Contexts in the engine's prefix cache cost nothing.
    """

    def __init__(self, engine: RolloutEngine):
        self._engine = engine

    def score(self, queries: Sequence[BeliefQuery]) -> list[np.ndarray]:
        """Scores each query, float64 [T1, K], in nats."""
        scores = [np.empty((len(query.contexts_T1), len(query.suffixes_K))) for query in queries]
        place_of: dict[str, tuple[int, int, int]] = {}
        for n, query in enumerate(queries):
            for t, context in enumerate(query.contexts_T1):
                for k, suffix in enumerate(query.suffixes_K):
                    request_id = f"belief/{n}/{t}/{k}"
                    place_of[request_id] = n, t, k
                    self._engine.submit(
                        ScoreAnswer(request_id, list(map(int, context)), suffix.ids, suffix.gold_mask_L)
                    )
        while place_of:
            for result in self._engine.step():
                assert isinstance(result, Scored), "the engine was not idle"
                n, t, k = place_of.pop(result.request_id)
                scores[n][t, k] = result.score
        return scores


def enter_scores(rollout: Rollout, scores_T1K: np.ndarray, policy: ScoringPolicy) -> None:
    """Writes scores into their rollout.

    Args:
        rollout: a finished rollout.
        scores_T1K: [T1, K]: s_0, then one row for each gain-bearing turn.
        policy: whose belief they are.

    Raises:
        RuntimeError: a score is not finite; the message names rollout, turn and alias.
        ValueError: there is not one row for each gain-bearing turn.
    """
    if not np.isfinite(scores_T1K).all():
        moment, alias = np.argwhere(~np.isfinite(scores_T1K))[0]
        where = (
            "after the prompt"
            if moment == 0
            else f"after turn {rollout.gain_bearing_turns[moment - 1].index}"
        )
        raise RuntimeError(
            f"rollout {rollout.id}, {where}: the score of alias {alias} is {scores_T1K[moment, alias]}: the "
            f"{policy} policy's weights are broken"
        )
    rollout.scorer = policy
    rollout.initial_scores_K = scores_T1K[0]
    for turn, scores_K in zip(rollout.gain_bearing_turns, scores_T1K[1:], strict=True):
        turn.scores_K = scores_K
