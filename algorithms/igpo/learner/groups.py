"""Spreads a batch over learners: complete groups, and numbers of the whole batch for each of them.

A learner sees only its shard, but the average over sequences or tokens, the outcome baseline of REINFORCE++
and the cut into minibatches concern the whole batch. The driver computes them once and sends them along in
each episode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from algorithms.credit import batch_outcome_statistics
from algorithms.igpo.learner.token_batch import timesteps, turn_tokens
from envs.search.trajectory import Rollout

MIN_GROUP = 2
"""A group with fewer rollouts left has no baseline and is dropped."""
BATCH_WIDE = "batch_wide"
"""Key of `episode.custom_data` for the result of `batch_wide_numbers`."""


def rollout_of(episode) -> Rollout:
    return episode.custom_data["rollout"]


def trained_groups(episodes: Sequence[Any]) -> dict[str, list[Any]]:
    """Groups episodes by `Rollout.group_id`, never by the episode's own id, which RLlib rewrites.

    A rollout without a turn (it was lost before its first decision) counts as missing.

    Returns:
        The groups of at least `MIN_GROUP` rollouts, in order of arrival. The others are dropped.

    Raises:
        ValueError: two episodes carry the same rollout id.
    """
    groups: defaultdict[str, list[Any]] = defaultdict(list)
    seen: set[str] = set()
    for episode in episodes:
        rollout = rollout_of(episode)
        if rollout.id in seen:
            raise ValueError(f"rollout {rollout.id} appears twice in one batch")
        seen.add(rollout.id)
        members = groups[rollout.group_id]
        if rollout.turns:
            members.append(episode)
    return {group: members for group, members in groups.items() if len(members) >= MIN_GROUP}


def kept_episodes(episodes: Sequence[Any]) -> list[Any]:
    """Returns the episodes that are trained on, group after group."""
    kept = trained_groups(episodes)
    return [episode for members in kept.values() for episode in members]


def are_identical(members: Sequence[Any]) -> bool:
    """Whether all episodes of a group hold the same tokens, turn by turn: written, and read before that.

    What came back after the last decision does not count, because nothing was written on it.
    """

    def tokens(episode) -> list[tuple]:
        turns = turn_tokens([episode])
        return [
            (turn.agent, step.context_ids_C.tolist(), step.decision_ids_L.tolist())
            for turn in rollout_of(episode).turns
            for step in [turns[rollout_of(episode).id, turn.index]]
        ]

    first, *others = members
    expected = tokens(first)
    return all(tokens(episode) == expected for episode in others)


def decision_tokens(episode) -> dict[str, int]:
    """Counts the decision tokens of each module in `episode`, over all its agents."""
    tokens: defaultdict[str, int] = defaultdict(int)
    for agent_episode in episode.agent_episodes.values():
        if len(agent_episode):
            tokens[agent_episode.module_id] += sum(len(ids) for ids in timesteps(agent_episode.actions))
    return {module_id: count for module_id, count in tokens.items() if count}


def batch_wide_numbers(episodes: Sequence[Any]) -> dict[str, Any]:
    """Computes the numbers of the whole batch that every learner needs.

    `shard_groups` puts them into each episode.

    Returns:
        `num_sequences` and `num_tokens` by module id, over sequences (rollout, module) with a decision token;
        `outcome_mean` and `outcome_std` over all rollouts trained on, each once; `sequence_index` by module
        id and rollout id, from 0, which decides the minibatch of a sequence.

    Raises:
        ValueError: no group has two rollouts.
    """
    kept = kept_episodes(episodes)
    if not kept:
        raise ValueError(
            f"none of the {len(episodes)} rollouts belongs to a group of at least {MIN_GROUP}: nothing to "
            "train on"
        )
    sequence_index: defaultdict[str, dict[str, int]] = defaultdict(dict)
    num_tokens: defaultdict[str, int] = defaultdict(int)
    for episode in kept:
        for module_id, count in decision_tokens(episode).items():
            sequence_index[module_id][rollout_of(episode).id] = len(sequence_index[module_id])
            num_tokens[module_id] += count
    outcome_mean, outcome_std = batch_outcome_statistics([rollout_of(episode).outcome for episode in kept])
    return {
        "num_sequences": {module_id: len(index) for module_id, index in sequence_index.items()},
        "num_tokens": dict(num_tokens),
        "outcome_mean": outcome_mean,
        "outcome_std": outcome_std,
        "sequence_index": dict(sequence_index),
    }


def shard_groups(episodes: Sequence[Any], num_shards: int) -> list[list[Any]]:
    """Splits episodes into `num_shards` lists of about equal numbers of tokens; a group stays together.

    Puts `batch_wide_numbers` into `custom_data["batch_wide"]` of each. A shard may be empty when there are
    fewer groups than shards. Episodes of dropped groups are left out.
    """
    numbers = batch_wide_numbers(episodes)
    kept = trained_groups(episodes)
    loads = [0] * num_shards
    shards: list[list[Any]] = [[] for _ in range(num_shards)]
    sizes = {group: sum(_context_tokens(episode) for episode in members) for group, members in kept.items()}
    for group in sorted(kept, key=sizes.__getitem__, reverse=True):
        lightest = min(range(num_shards), key=loads.__getitem__)
        loads[lightest] += sizes[group]
        for episode in kept[group]:
            episode.custom_data[BATCH_WIDE] = numbers
            shards[lightest].append(episode)
    return shards


def _context_tokens(episode) -> int:
    return sum(
        len(ids)
        for agent_episode in episode.agent_episodes.values()
        for ids in [*timesteps(agent_episode.observations), *timesteps(agent_episode.actions)]
    )
