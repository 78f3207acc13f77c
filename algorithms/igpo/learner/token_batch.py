"""The learner's token batch: the rows of all agents that spoke, end to end, without padding.

A row holds everything that one agent of one rollout saw and wrote, up to its last decision token. A batch is
a dictionary of flat columns of one length. Array names: F tokens of all rows, R rows, X contexts and
decisions.

    token_ids      int64   [F]
    row_id         int32   [F]  the token's row, 0 to R - 1; the tokens of a row are neighbours
    sequence_id    int32   [F]  index of the row's (rollout, module) in the whole batch; -1 in a dummy row
    loss_mask      bool    [F]  True at decision tokens, the only ones with a loss; a row begins with another
    advantages     float32 [F]  advantage of the token's turn; 0 off the loss mask
    action_logp    float32 [F]  log-prob that the rollout engine returned; 0 off the loss mask
    loss_weight    float32 [F]  weight in the batch's loss (`aggregation_weight`); 0 off the loss mask
    clip_scale     float32 [F]  factor of both clip bounds; 1 off the loss mask
    turn_id        int32   [F]  index into `TokenLayout.turn_keys`; -1 off the loss mask and in a dummy row

`join_rows` makes the columns on the CPU, and micro-batches stay there: rows are packed
(`algorithms.igpo.model.packing`) and decision tokens picked (`decisions_of`) while the device is busy with
the micro-batch before.

    rows [p q | x y]  [p | z] (x, y, z decided)    token_ids  p q x y p z    loss_mask  0 0 1 1 0 1
                                                   row_id     0 0 0 0 1 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from algorithms.igpo.iteration_record import TurnTokens
from algorithms.igpo.model.device import on_device
from envs.search.trajectory import Rollout

TokenBatch = dict[str, torch.Tensor]


@dataclass(slots=True)
class TokenLayout:
    """The rollouts and turns behind the ids in one module's token batch."""

    turn_keys: list[tuple[str, int]] = field(default_factory=list)
    """(rollout id, turn index) of each `turn_id`."""
    rollout_ids_R: list[str] = field(default_factory=list)
    """Rollout of each row; empty where the only row is a dummy."""
    num_sequences: int = 0
    """S of the whole batch, over all learners."""


class Part(NamedTuple):
    """A context or a decision: its token ids, and the values that all of them share."""

    ids: np.ndarray
    decision: bool
    sampler_logp: np.ndarray | None
    advantage: float
    clip_scale: float
    turn_id: int


@dataclass(slots=True)
class Row:
    """A row under construction: contexts and decisions in the order of time."""

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
    """Returns the items of a buffer of an agent's episode (`observations`, `actions`, ...) without a copy.

    RLlib's getters would copy every item.
    """
    items: Any = buffer.data
    return items[buffer.lookback :]


def agent_steps(rollout: Rollout, agent: str, agent_episode, num_turns: int):
    """Yields (new context ids, decision ids, sampler log-probs) of each turn of an agent.

    Raises:
        ValueError: the episode has another number of turns than the rollout, or a turn has another number of
            log-probs than of tokens.
    """
    # No decision follows the last observation.
    contexts = timesteps(agent_episode.observations)[: len(agent_episode)]
    decisions = timesteps(agent_episode.actions)
    logps = timesteps(agent_episode.extra_model_outputs[Columns.ACTION_LOGP])
    if not len(decisions) == len(logps) == num_turns:
        raise ValueError(
            f"rollout {rollout.id}: agent {agent} has {num_turns} turns in the rollout, but "
            f"{len(decisions)} actions and {len(logps)} lists of log-probs in the episode"
        )
    for turn, (decision_ids, logp) in enumerate(zip(decisions, logps, strict=True)):
        if len(decision_ids) != len(logp):
            raise ValueError(
                f"rollout {rollout.id}: turn {turn} of agent {agent} has {len(decision_ids)} decision "
                f"tokens, but {len(logp)} sampler log-probs"
            )
    return zip(contexts, decisions, logps, strict=True)


def turn_tokens(episodes: Sequence) -> dict[tuple[str, int], TurnTokens]:
    """Collects the token ids of every turn of `episodes` by (rollout id, turn index)."""
    tokens = {}
    for episode in episodes:
        rollout: Rollout = episode.custom_data["rollout"]
        for agent, agent_episode in episode.agent_episodes.items():
            turns = [turn for turn in rollout.turns if turn.agent == agent]
            steps = agent_steps(rollout, agent, agent_episode, len(turns))
            for turn, step in zip(turns, steps, strict=True):
                tokens[rollout.id, turn.index] = TurnTokens(*(np.asarray(part) for part in step))
    return tokens


def join_rows(rows: Sequence[Row]) -> TokenBatch:
    """Joins `rows` into a token batch (module docstring), into the dummy batch where there are none.

    Tokens behind a row's last decision are dropped: nothing is learned from them.

    Raises:
        ValueError: a row has no decision token.
    """
    rows = rows or [_dummy_row()]
    parts = [part for row in rows for part in row.parts]
    size_X = np.array([len(part.ids) for part in parts], np.int64)
    decision_F = np.repeat(np.array([part.decision for part in parts], bool), size_X)
    row_F = np.repeat(np.arange(len(rows)), [row.num_tokens for row in rows])
    last_R = np.full(len(rows), -1)
    np.maximum.at(last_R, row_F[decision_F], np.flatnonzero(decision_F))
    if (last_R < 0).any():
        raise ValueError(f"row {np.argmin(last_R)} has no decision token: there is nothing to learn from it")
    kept_F = np.arange(len(row_F)) <= last_R[row_F]

    def of_parts(values: list[float], dtype: type) -> np.ndarray:
        return np.repeat(np.array(values, dtype), size_X)

    def of_rows(values: list[float], dtype: type) -> np.ndarray:
        return np.array(values, dtype)[row_F]

    logp_F = np.concatenate(
        [np.zeros(len(p.ids), np.float32) if p.sampler_logp is None else p.sampler_logp for p in parts]
    )
    columns = {
        "token_ids": np.concatenate([part.ids for part in parts]),
        "row_id": row_F.astype(np.int32),
        "sequence_id": of_rows([row.sequence_id for row in rows], np.int32),
        Columns.LOSS_MASK: decision_F,
        Columns.ADVANTAGES: of_parts([part.advantage for part in parts], np.float32),
        Columns.ACTION_LOGP: logp_F.astype(np.float32, copy=False),
        "loss_weight": of_rows([row.weight for row in rows], np.float32) * decision_F.astype(np.float32),
        "clip_scale": of_parts([part.clip_scale for part in parts], np.float32),
        "turn_id": of_parts([part.turn_id for part in parts], np.int32),
    }
    return {name: torch.from_numpy(column_F[kept_F]) for name, column_F in columns.items()}


def _dummy_row() -> Row:
    row = Row()
    row.append([0], decision=False)
    row.append([0], decision=True)
    return row


def dummy_batch(like: TokenBatch) -> TokenBatch:
    """Makes one row of two tokens that adds exactly 0 to loss and gradient, with the columns of `like`.

    A learner runs it while others still have work. Columns that `join_rows` does not make are 0.
    """
    batch = join_rows([])
    return batch | {name: column.new_zeros(2) for name, column in like.items() if name not in batch}


def row_lengths(batch: TokenBatch) -> np.ndarray:
    """Counts the tokens of each row, [R]."""
    return np.bincount(batch["row_id"].numpy())


def tokens_of_rows(lengths_R: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the indices of all tokens of `rows` in the flat columns, row after row."""
    start_R = np.cumsum(lengths_R) - lengths_R
    return np.concatenate([np.arange(start_R[row], start_R[row] + lengths_R[row]) for row in rows])


def take_rows(batch: TokenBatch, lengths_R: np.ndarray, rows: np.ndarray) -> TokenBatch:
    """Copies the given rows of `batch` into a token batch; their row ids count from 0."""
    index = torch.from_numpy(tokens_of_rows(lengths_R, rows))
    taken = {name: column[index] for name, column in batch.items()}
    taken["row_id"] = torch.from_numpy(np.repeat(np.arange(len(rows), dtype=np.int32), lengths_R[rows]))
    return taken


def decisions_of(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """Copies the columns at the D decision tokens to `device`, [D] each, without waiting for it."""
    mask_F = batch[Columns.LOSS_MASK].numpy()
    return {name: on_device(column_F.numpy()[mask_F], device) for name, column_F in batch.items()}
