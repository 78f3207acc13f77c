"""Belief scoring on the learners, for the methods `tree` and `naive`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray

from algorithms.igpo.remote import on_learners
from envs.runner.belief import QUERY, enter_scores

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    from algorithms.igpo.config import IGPOConfig


def score_on_learners(
    episodes: list[MultiAgentEpisode], learners: LearnerGroup, config: IGPOConfig, policy_id: str
) -> None:
    """Scores the rollouts that the env runners left unscored, and enters the scores in them.

    Args:
        episodes: episodes with a belief query in `custom_data`, which is removed.
        learners: the learners; each scores an equal share.
        config: the number of learners, and whether the policy itself or its reference scores.
        policy_id: id of the answering role's policy.
    """
    count = max(1, config.num_learners)
    queries = [episode.custom_data.pop(QUERY) for episode in episodes]
    shares = [ray.put(queries[k::count]) for k in range(count)]

    def score(learner):
        index = learner._learner_index or 0
        return index, learner.score_beliefs(ray.get(shares[index]), policy_id)

    for index, scores in on_learners(learners, score):
        for episode, scores_T1K in zip(episodes[index::count], scores, strict=True):
            enter_scores(episode.custom_data["rollout"], scores_T1K, config.belief_scoring.policy)
