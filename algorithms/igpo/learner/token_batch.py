"""The learner's token columns: one row per (rollout, agent) that spoke, padded on the right.

Columns (N rows, L tokens, all on the CPU; the learner moves micro-batches to its device):

    token_ids      int64   [N, L]  everything the agent saw and wrote, up to its last decision token
    lengths        int64   [N]     real tokens
    decision_mask  bool    [N, L]  tokens that the agent wrote: the only ones with a loss
    advantages     float32 [N, L]  A of the token's turn; this and the columns below are 0 off the decision
    mask sampler_logp   float32 [N, L]  what the rollout engine returned for the token
    loss_weight    float32 [N, L]  weight in the batch's loss
    (`algorithms.igpo.learner.loss.aggregation_weight`) clip_scale     float32 [N, L]  factor of both clip
    bounds; 1 off the decision mask turn_id        int32   [N, L]  index into `TokenLayout.turn_keys`; -1 off
    the decision mask sequence_id    int32   [N]     index of the (rollout, module) in the whole batch; -1 for
    a row of no weight
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from algorithms.igpo.iteration_record import TurnTokens
from envs.search.trajectory import Rollout

Columns = dict[str, torch.Tensor]


@dataclass(slots=True)
class TokenLayout:
    """What the integers in one module's columns stand for."""

    turn_keys: list[tuple[str, int]] = field(default_factory=list)
    """(rollout id, turn index) of each `turn_id`."""
    rollout_ids_N: list[str] = field(default_factory=list)
    """Rollout of each row; empty for the one row of no weight of a module without rows."""
    num_sequences: int = 0
    """S of the whole batch, over all learners."""


class Part(NamedTuple):
    """A context or a decision: ids, and what holds for each of them."""

    ids: np.ndarray
    decision: bool
    sampler_logp: np.ndarray | None
    advantage: float
    clip_scale: float
    turn_id: int


@dataclass(slots=True)
class Row:
    """A row in the making: contexts and decisions in the order of time."""

    parts: list[Part] = field(default_factory=list)
    weight: float = 0.0
    sequence_id: int = -1

    def append(
        self, ids, *, decision: bool, sampler_logp=None, advantage=0.0, clip_scale=1.0, turn_id=-1
    ) -> None:
        if sampler_logp is not None and len(sampler_logp) != len(ids):
            raise ValueError(f"{len(ids)} tokens have {len(sampler_logp)} sampler log-probs")
        self.parts.append(
            Part(np.asarray(ids, np.int64), decision, sampler_logp, advantage, clip_scale, turn_id)
        )

    @property
    def num_tokens(self) -> int:
        return sum(len(part.ids) for part in self.parts)


def timesteps(buffer: InfiniteLookbackBuffer) -> list:
    """The items of a buffer of an agent's episode (`observations`, `actions`, ...).

    RLlib's getters make copies.
    """
    items: Any = buffer.data
    return items[buffer.lookback :]


def agent_steps(rollout: Rollout, agent: str, agent_episode, num_turns: int):
    """(new context ids, decision ids, sampler log-probs) of each turn of an agent, lengths checked."""
    contexts = timesteps(agent_episode.observations)[
        : len(agent_episode)
    ]  # the last observation is seen by nobody
    decisions = timesteps(agent_episode.actions)
    logps = timesteps(agent_episode.extra_model_outputs["action_logp"])
    if not len(decisions) == len(logps) == num_turns:
        raise ValueError(
            f"rollout {rollout.id}: agent {agent} has {num_turns} turns in the rollout, but "
            f"{len(decisions)} actions "
            f"and {len(logps)} lists of log-probs in the episode"
        )
    for turn, (decision_ids, logp) in enumerate(zip(decisions, logps, strict=True)):
        if len(decision_ids) != len(logp):
            raise ValueError(
                f"rollout {rollout.id}: turn {turn} of agent {agent} has {len(decision_ids)} decision "
                "tokens, but "
                f"{len(logp)} sampler log-probs"
            )
    return zip(contexts, decisions, logps, strict=True)


def turn_tokens(episodes: Sequence) -> dict[tuple[str, int], TurnTokens]:
    """The token ids of every turn of `episodes` by (rollout id, turn index)."""
    tokens = {}
    for episode in episodes:
        rollout: Rollout = episode.custom_data["rollout"]
        for agent, agent_episode in episode.agent_episodes.items():
            turns = [turn for turn in rollout.turns if turn.agent == agent]
            steps = agent_steps(rollout, agent, agent_episode, len(turns))
            for turn, step in zip(turns, steps, strict=True):
                tokens[rollout.id, turn.index] = TurnTokens(*(np.asarray(part) for part in step))
    return tokens


def pad_rows(rows: Sequence[Row]) -> Columns:
    """Columns of `rows`, padded on the right; one row of no weight if there are none.

    Array names: N rows, P parts of all rows, F tokens of all rows in one line.
    """
    if not rows:
        rows = [Row()]
        rows[0].append([0], decision=False)
        rows[0].append([0], decision=True)
    parts = [part for row in rows for part in row.parts]
    size_P = np.array([len(part.ids) for part in parts], np.int64)
    decision_F = np.repeat(np.array([part.decision for part in parts], bool), size_P)
    row_F = np.repeat(np.arange(len(rows)), [row.num_tokens for row in rows])
    first_N = np.searchsorted(row_F, np.arange(len(rows)))
    place_F = np.arange(len(row_F)) - first_N[row_F]
    lengths_N = np.zeros(len(rows), np.int64)
    np.maximum.at(lengths_N, row_F[decision_F], place_F[decision_F] + 1)
    if not lengths_N.all():
        raise ValueError(
            f"row {np.argmin(lengths_N)} has no decision token: there is nothing to learn from it"
        )
    kept_F = place_F < lengths_N[row_F]  # nothing is learned from what comes after the last decision
    where = row_F[kept_F], place_F[kept_F]

    def column(value_F: np.ndarray, padding: float | bool = 0) -> np.ndarray:
        column_NL = np.full((len(rows), lengths_N.max()), padding, value_F.dtype)
        column_NL[where] = value_F[kept_F]
        return column_NL

    def of_parts(values: list[float], dtype: type) -> np.ndarray:
        return np.repeat(np.array(values, dtype), size_P)

    logp_F = np.concatenate(
        [np.zeros(len(p.ids), np.float32) if p.sampler_logp is None else p.sampler_logp for p in parts]
    )
    mask_NL = column(decision_F, False)
    weight_N = np.array([row.weight for row in rows], np.float32)
    columns = {
        "token_ids": column(np.concatenate([part.ids for part in parts])),
        "decision_mask": mask_NL,
        "advantages": column(of_parts([part.advantage for part in parts], np.float32)),
        "sampler_logp": column(logp_F.astype(np.float32, copy=False)),
        "clip_scale": column(of_parts([part.clip_scale for part in parts], np.float32), 1),
        "turn_id": column(of_parts([part.turn_id for part in parts], np.int32), -1),
        "loss_weight": weight_N[:, None] * mask_NL.astype(np.float32),
    }
    return {
        "lengths": torch.from_numpy(lengths_N),
        **{name: torch.from_numpy(column_NL) for name, column_NL in columns.items()},
        "sequence_id": torch.tensor([row.sequence_id for row in rows], dtype=torch.int32),
    }
