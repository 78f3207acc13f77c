"""The driver's calls to the learners around an update: beliefs and data go in, credit comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray.rllib.core.learner.training_data import TrainingData

from algorithms.igpo.iteration_record import GroupCredit, TurnCredit
from algorithms.igpo.learner.groups import shard_groups
from algorithms.igpo.remote import on_learners
from envs.runner.belief import QUERY, enter_scores

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    from algorithms.igpo.settings import IGPOSettings


def training_data(episodes: list[MultiAgentEpisode], num_learners: int) -> TrainingData:
    """Spreads the episodes over the learners in whole groups; RLlib's own split would cut groups apart."""
    shards = shard_groups(episodes, max(1, num_learners))
    if num_learners <= 1:
        return TrainingData(episodes=shards[0])
    return TrainingData(episodes_refs=[ray.put(shard) for shard in shards])


def take_credit(learners: LearnerGroup) -> tuple[dict[tuple[str, int], TurnCredit], list[GroupCredit]]:
    """Collects the last update's credit of every turn, by (rollout id, turn index), and of its groups."""
    credit: dict[tuple[str, int], TurnCredit] = {}
    groups: list[GroupCredit] = []
    for turns, own_groups in on_learners(learners, lambda learner: learner.take_credit()):
        credit |= turns
        groups += own_groups
    return credit, groups


def score_on_learners(
    episodes: list[MultiAgentEpisode], learners: LearnerGroup, config: IGPOSettings, policy_id: str
) -> None:
    """Scores the rollouts that the env runners left unscored, and enters the scores in them.

    Args:
        episodes: the belief query in their `custom_data` is removed. An episode whose question is played
            without belief has none.
        learners: the learners; each scores an equal share.
        config: the number of learners, and whether the policy itself or its reference scores.
        policy_id: id of the answering role's policy.
    """
    count = max(1, config.num_learners)
    episodes = [episode for episode in episodes if QUERY in episode.custom_data]
    queries = [episode.custom_data.pop(QUERY) for episode in episodes]
    shares = [ray.put(queries[k::count]) for k in range(count)]

    def score(learner):
        index = learner._learner_index or 0
        return index, learner.score_beliefs(ray.get(shares[index]), policy_id)

    for index, scores in on_learners(learners, score):
        for episode, scores_T1K in zip(episodes[index::count], scores, strict=True):
            enter_scores(episode.custom_data["rollout"], scores_T1K, config.belief_scoring.policy)
