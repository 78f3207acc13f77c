"""Around an update of the learners: the data that goes in, and the credit that comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray.rllib.core.learner.training_data import TrainingData

from algorithms.igpo.iteration_record import GroupCredit, TurnCredit
from algorithms.igpo.learner.groups import shard_groups
from algorithms.igpo.remote import on_learners

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode


def training_data(episodes: list[MultiAgentEpisode], num_learners: int) -> TrainingData:
    """The episodes, spread over the learners in whole groups (RLlib's own split would cut groups apart)."""
    shards = shard_groups(episodes, max(1, num_learners))
    if num_learners <= 1:
        return TrainingData(episodes=shards[0])
    return TrainingData(episodes_refs=[ray.put(shard) for shard in shards])


def take_credit(learners: LearnerGroup) -> tuple[dict[tuple[str, int], TurnCredit], list[GroupCredit]]:
    """The last update's credit of every turn, by (rollout id, turn index), and statistics of its groups."""
    credit: dict[tuple[str, int], TurnCredit] = {}
    groups: list[GroupCredit] = []
    for turns, own_groups in on_learners(learners, lambda learner: learner.take_credit()):
        credit |= turns
        groups += own_groups
    return credit, groups
