"""From RLlib episodes to the learner's token batches.

`TurnLevelAdvantages` adapts rollouts to `algorithms.credit`, which gives each turn an advantage.
`BuildTokenBatch` makes the token batch of each module: one row per (rollout, agent) that spoke. Both leave in
`BatchNotes` what the learner needs to know besides.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ALL_MODULES

from algorithms.credit import CreditConfig, Preset, get_preset, turn_batch
from algorithms.credit.config import AliasRule
from algorithms.credit.own_estimator import assign
from algorithms.igpo.iteration_record import GroupCredit, TurnCredit, group_credits, turn_credits
from algorithms.igpo.learner.credit_input import episode_facts, scored_rollout
from algorithms.igpo.learner.groups import (
    BATCH_WIDE,
    are_identical,
    decision_tokens,
    rollout_of,
    trained_groups,
)
from algorithms.igpo.learner.loss import aggregation_weight
from algorithms.igpo.learner.token_batch import (
    Row,
    TokenLayout,
    agent_steps,
    join_rows,
    timesteps,
)
from algorithms.igpo.loss_settings import Aggregation

CREDIT = "igpo_credit"
"""Key of the pipeline's `shared_data`: {rollout id: (advantages_T, clip_scale_T)}."""
NUMBERS = "igpo_batch_wide"
"""Key of the pipeline's `shared_data`: the result of `batch_wide_numbers` for the whole batch."""


@dataclass(slots=True)
class BatchNotes:
    """Facts of the last batch that no tensor can hold, from the connector pieces to the learner.

    The learner makes one, gives it to both pieces and reads it after each call of the pipeline.
    """

    credit: dict[tuple[str, int], TurnCredit] = field(default_factory=dict)
    """By (rollout id, turn index), of this learner's rollouts."""
    groups: list[GroupCredit] = field(default_factory=list)
    """Statistics of this learner's groups."""
    layouts: dict[str, TokenLayout] = field(default_factory=dict)
    """By module id: the rollouts and turns behind the ids in the module's token batch."""


class TurnLevelAdvantages(ConnectorV2):
    """Computes one advantage per turn and puts it into `shared_data`; the batch passes unchanged.

    Drops groups of fewer than 2 rollouts. Fills `credit` and `groups` of the notes.

    Args:
        credit: the settings of the estimator.
        notes: filled at each call.
        alias_rule: how the scores of several aliases become one.
        preset: may hold an estimator of one's own; None: the rules of `credit`.
    """

    def __init__(
        self,
        credit: CreditConfig,
        notes: BatchNotes,
        *,
        alias_rule: AliasRule = "max",
        preset: Preset | None = None,
    ):
        super().__init__()
        self.preset = preset or get_preset("igpo")
        self.credit = credit
        self.alias_rule = alias_rule
        self.notes = notes

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module, batch, episodes, explore=None, shared_data: Any = None, metrics=None, **kwargs
    ):
        started = time.perf_counter()
        kept = trained_groups(episodes)
        self.notes.credit, self.notes.groups = {}, []
        shared_data[CREDIT] = {}
        shared_data[NUMBERS] = _batch_wide(episodes)
        if kept:
            shared_data[CREDIT] = self._assign(list(kept.values()), shared_data[NUMBERS])
        if metrics is not None:
            metrics.log_value(
                (ALL_MODULES, "seconds_credit"), time.perf_counter() - started, reduce="mean", window=1
            )
        return batch

    def _assign(
        self, groups: list[list[Any]], numbers: dict[str, Any]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Assigns credit to whole groups: {rollout id: (advantages_T, clip_scale_T)}."""
        episodes = [episode for members in groups for episode in members]
        rollouts = [rollout_of(episode) for episode in episodes]
        scored = [scored_rollout(rollout) for rollout in rollouts]
        batch = turn_batch(scored, self.credit, self.alias_rule)
        facts = [episode_facts(episode) for episode in episodes] if self.preset.estimator else None
        batch_outcomes = numbers["outcome_mean"], numbers["outcome_std"]
        credit = assign(self.preset, self.credit, scored, facts, batch, batch_outcomes)
        self.notes.credit = turn_credits(rollouts, batch, credit)
        firsts = [rollout_of(members[0]) for members in groups]
        self.notes.groups = group_credits(
            firsts, [are_identical(members) for members in groups], credit.groups
        )
        advantages = batch.turns.split(credit.advantages_M)
        clip_scales = batch.turns.split(credit.clip_scale_M)
        return {
            rollout.id: (advantage_T, clip_scale_T)
            for rollout, advantage_T, clip_scale_T in zip(rollouts, advantages, clip_scales, strict=True)
        }


def _batch_wide(episodes) -> dict[str, Any] | None:
    """Returns the numbers of the whole batch; None for an empty shard."""
    if not episodes:
        return None
    if BATCH_WIDE not in episodes[0].custom_data:
        raise ValueError(
            "the episodes do not hold the numbers of the whole batch: make the learners' shards with "
            "algorithms.igpo.learner.groups.shard_groups"
        )
    return episodes[0].custom_data[BATCH_WIDE]


class BuildTokenBatch(ConnectorV2):
    """Makes {module id: token batch} of all kept rollouts.

    Every module of the RLModule gets a batch, if need be a dummy, so that all learners make the same
    collective calls. Fills `layouts` of the notes.
    """

    def __init__(self, aggregation: Aggregation, notes: BatchNotes):
        super().__init__()
        self.aggregation = aggregation
        self.notes = notes

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module, batch, episodes, explore=None, shared_data: Any = None, metrics=None, **kwargs
    ):
        credit, numbers = shared_data[CREDIT], shared_data[NUMBERS]
        layouts = {module_id: TokenLayout() for module_id in rl_module.keys()}  # noqa: SIM118 (not a dict)
        self.notes.layouts = layouts
        rows: defaultdict[str, list[Row]] = defaultdict(list)
        for episode in episodes:
            if rollout_of(episode).id in credit:
                self._add_rollout(episode, *credit[rollout_of(episode).id], numbers, rows)
        for module_id, layout in layouts.items():
            layout.num_sequences = numbers["num_sequences"].get(module_id, 0) if numbers else 0
        return {module_id: join_rows(rows[module_id]) for module_id in layouts}

    def _add_rollout(self, episode, advantages_T, clip_scales_T, numbers, rows) -> None:
        rollout = rollout_of(episode)
        tokens = decision_tokens(episode)
        for agent, agent_episode in episode.agent_episodes.items():
            if not any(len(ids) for ids in timesteps(agent_episode.actions)):
                continue  # without a decision token there is no row
            module_id = agent_episode.module_id
            if module_id not in self.notes.layouts:
                raise ValueError(
                    f"rollout {rollout.id}: agent {agent} speaks through module {module_id!r}, but the "
                    f"learner has only {', '.join(self.notes.layouts)}; check policy_mapping_fn"
                )
            layout = self.notes.layouts[module_id]
            row = Row(
                weight=aggregation_weight(
                    self.aggregation,
                    num_sequences=numbers["num_sequences"][module_id],
                    num_tokens=numbers["num_tokens"][module_id],
                    sequence_tokens=tokens[module_id],
                ),
                sequence_id=numbers["sequence_index"][module_id][rollout.id],
            )
            positions = [k for k, turn in enumerate(rollout.turns) if turn.agent == agent]
            steps = agent_steps(rollout, agent, agent_episode, len(positions))
            for k, (context_ids, decision_ids, sampler_logp) in zip(positions, steps, strict=True):
                row.append(context_ids, decision=False)
                row.append(
                    decision_ids,
                    decision=True,
                    sampler_logp=sampler_logp,
                    advantage=advantages_T[k],
                    clip_scale=clip_scales_T[k],
                    turn_id=len(layout.turn_keys),
                )
                layout.turn_keys.append((rollout.id, rollout.turns[k].index))
            if len(row.parts[0].ids) == 0:
                raise ValueError(
                    f"rollout {rollout.id}: agent {agent} has an empty prompt; its first token would have "
                    "no context"
                )
            rows[module_id].append(row)
            layout.rollout_ids_R.append(rollout.id)
