"""What credit reads of a rollout that was just made; `pipeline.analysis.offline.recredit` reads the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from algorithms.credit import RolloutFacts, ScoredRollout
from algorithms.igpo.learner.groups import rollout_of
from algorithms.igpo.learner.token_batch import turn_tokens
from envs.search.trajectory import Rollout, Termination


def scored_rollout(rollout: Rollout) -> ScoredRollout:
    """Extracts what credit reads of a rollout."""
    bearing = {turn.index for turn in rollout.gain_bearing_turns}
    return ScoredRollout(
        id=rollout.id,
        group=rollout.group_id,
        outcome=rollout.outcome,
        initial_scores_K=rollout.initial_scores_K,
        scores_T1K=[turn.scores_K for turn in rollout.turns],
        bears_gain_T=[turn.index in bearing for turn in rollout.turns],
        agents_T=[turn.agent for turn in rollout.turns],
        malformed=rollout.termination is Termination.MALFORMED,
        turn_limit=rollout.termination is Termination.TURN_LIMIT,
        answered=rollout.termination is Termination.ANSWERED,
        without_belief=rollout.without_belief,
    )


def rollout_facts(rollout: Rollout, decision_logps_T: Sequence[np.ndarray | None]) -> RolloutFacts:
    """Extracts what an estimator of one's own may read of a rollout besides its scores.

    Args:
        rollout: the rollout.
        decision_logps_T: by turn, the log-probabilities of the decision's tokens; None where not known.
    """
    question, turns = rollout.question, rollout.turns
    return RolloutFacts(
        question=question.text,
        golds=question.golds,
        scored_golds_K=rollout.scored_golds_K,
        hops=question.hops,
        evidence=question.gold_document_ids,
        metadata=question.metadata,
        answer=rollout.answer,
        termination=str(rollout.termination),
        actions_T=[str(turn.action) for turn in turns],
        decisions_T=[turn.decision_text for turn in turns],
        observations_T=[turn.observation_text for turn in turns],
        queries_T=[turn.query for turn in turns],
        document_ids_T=[[d for call in turn.tool_calls for d in call.document_ids] for turn in turns],
        gold_hits_T=[turn.gold_hit for turn in turns],
        decision_logps_T=decision_logps_T,
    )


def episode_facts(episode: Any) -> RolloutFacts:
    """`rollout_facts` of the episode that carries a rollout and its tokens."""
    rollout = rollout_of(episode)
    tokens = turn_tokens([episode])
    found_T = [tokens.get((rollout.id, turn.index)) for turn in rollout.turns]
    return rollout_facts(rollout, [None if found is None else found.sampler_logp_L for found in found_T])
