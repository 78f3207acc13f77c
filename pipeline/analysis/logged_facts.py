"""What an estimator of one's own may read of logged rollouts: texts, documents, tokens where they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from algorithms.credit import RolloutFacts
from pipeline.analysis.run import Run

_FACTS = """
    SELECT episode_id, question, golds, scored_golds, hops, gold_document_ids, question_metadata, answer,
        termination, told.turns
    FROM episodes JOIN (
        SELECT episode_id, list({{action: action, decision_text: decision_text, query: query,
            observation_text: observation_text, document_ids: document_ids, gold_hit: gold_hit,
            turn_index: turn_index}} ORDER BY turn_index) AS turns
        FROM turns WHERE split = 'train' AND iteration = {iteration} GROUP BY episode_id
    ) AS told USING (episode_id)
    WHERE split = 'train' AND iteration = {iteration}
"""
_TOKENS = """
    SELECT episode_id, turn_index, list(sampler_logp ORDER BY position) AS logps
    FROM tokens WHERE split = 'train' AND iteration = {iteration} AND is_decision GROUP BY ALL
"""


def logged_facts(run: Run, iteration: int, episode_ids: Sequence[str]) -> list[RolloutFacts]:
    """Reads the facts of rollouts of one iteration, in the order of `episode_ids`."""
    episodes = run.sql(_FACTS.format(iteration=iteration)).to_arrow_table().to_pylist()
    tokens = run.sql(_TOKENS.format(iteration=iteration)).fetchall()
    logps = {(episode, turn): np.array(values, np.float32) for episode, turn, values in tokens}
    by_id = {episode["episode_id"]: episode for episode in episodes}
    return [_facts(by_id[episode_id], logps) for episode_id in episode_ids]


def _facts(episode: dict[str, Any], logps: dict[tuple[str, int], np.ndarray]) -> RolloutFacts:
    turns = episode["turns"]
    return RolloutFacts(
        question=episode["question"],
        golds=episode["golds"],
        scored_golds_K=episode["scored_golds"] or [],
        hops=episode["hops"],
        evidence=episode["gold_document_ids"] or [],
        metadata=json.loads(episode["question_metadata"] or "{}"),
        answer=episode["answer"],
        termination=episode["termination"],
        actions_T=[turn["action"] for turn in turns],
        decisions_T=[turn["decision_text"] for turn in turns],
        observations_T=[turn["observation_text"] or "" for turn in turns],
        queries_T=[turn["query"] for turn in turns],
        document_ids_T=[turn["document_ids"] or [] for turn in turns],
        gold_hits_T=[turn["gold_hit"] for turn in turns],
        decision_logps_T=[logps.get((episode["episode_id"], turn["turn_index"])) for turn in turns],
    )
