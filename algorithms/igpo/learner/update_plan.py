"""Assigns the rows of a token batch to updates (optimizer steps) and micro-batches (forward passes).

A plan is data: it holds no model and calls none. Two epochs of two minibatches over five sequences of one
row, with room for one row in a micro-batch, on a learner that holds the sequences 0, 1 and 3:

    epoch 0 shuffles 3 0 4 | 1 2    update 0: micro-batches [0] [3]    update 1: micro-batch [1]
    epoch 1 shuffles 1 4 3 | 0 2    update 2: micro-batches [1] [3]    update 3: micro-batch [0]
    The other learner holds 2 and 4. In update 0 it has one micro-batch, so it adds a dummy: [4] [dummy].

A sequence, that is all rows of one (rollout, module), is never split: a ratio may average over all its
tokens. All learners agree on the numbers of the whole batch before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from algorithms.igpo.learner.token_batch import (
    TokenBatch,
    TokenLayout,
    dummy_batch,
    row_lengths,
    take_rows,
    tokens_of_rows,
)
from algorithms.igpo.loss_settings import Aggregation

OverLearners = Callable[[list[float], str], list[float]]
"""Reduces each value over all learners by "sum" or "max" (a collective call)."""


@dataclass(frozen=True, slots=True)
class Update:
    """One module's share of one optimizer step on this learner."""

    plan: UpdatePlan
    epoch: int
    minibatch: int
    rows: list[np.ndarray]
    """Row indices of each of this learner's micro-batches."""
    num_micro_batches: int
    """The most that any learner has; 0 if no learner has tokens in this update."""
    weight_scale: float
    """The batch over the minibatch, in sequences or tokens; 0 if no learner has tokens in this update."""

    def micro_batches(self) -> Iterator[TokenBatch]:
        """Yields this learner's micro-batches, then dummy batches up to `num_micro_batches`.

        `loss_weight` is scaled from a share of the batch to a share of the minibatch.
        """
        for k in range(self.num_micro_batches):
            if self.is_real(k):
                micro = take_rows(self.plan.batch, self.plan.lengths_R, self.rows[k])
            else:
                micro = dummy_batch(self.plan.batch)
            micro["loss_weight"] = micro["loss_weight"] * self.weight_scale
            yield micro

    def is_real(self, k: int) -> bool:
        """Whether micro-batch `k` holds rows of this learner; a dummy has none."""
        return k < len(self.rows)

    def rollout_ids(self, micro_batches: list[int]) -> list[str]:
        """Returns the ids of the rollouts in these micro-batches, sorted; dummy batches have none."""
        own = [k for k in micro_batches if self.is_real(k)]
        return sorted({self.plan.layout.rollout_ids_R[row] for k in own for row in self.rows[k]})


@dataclass(slots=True)
class UpdatePlan:
    """All updates of one module with one batch; iteration yields them in order."""

    module_id: str
    batch: TokenBatch
    """The module's rows on this learner, on the CPU. `add_column` may add columns."""
    lengths_R: np.ndarray
    """Tokens of each row."""
    layout: TokenLayout
    num_minibatches: int
    rows_I: list[list[np.ndarray]]
    """`Update.rows` of each update; `num_micro_batches_I` and `weight_scale_I` likewise."""
    num_micro_batches_I: list[int]
    weight_scale_I: list[float]
    num_tokens: float
    """Decision tokens of the whole batch, over all learners."""
    num_sequences: float
    """Sequences of the whole batch, over all learners."""

    def __iter__(self) -> Iterator[Update]:
        columns = zip(self.rows_I, self.num_micro_batches_I, self.weight_scale_I, strict=True)
        for u, (rows, num_micro_batches, weight_scale) in enumerate(columns):
            epoch, minibatch = divmod(u, self.num_minibatches)
            yield Update(self, epoch, minibatch, rows, num_micro_batches, weight_scale)

    def first_epoch(self) -> Iterator[Update]:
        """Yields the updates of the first epoch, which together hold every row once."""
        return islice(self, self.num_minibatches)

    def add_column(self, name: str, update: Update, values: list[torch.Tensor]) -> None:
        """Sets the column `name` of `batch` at the decision tokens of the micro-batches of `update`.

        A dummy batch has no place in it: nothing happens.

        Args:
            name: of the column, which is 0 elsewhere.
            update: whose micro-batches they are.
            values: [D] of each micro-batch, on any device.
        """
        column_F = self.batch.setdefault(name, torch.zeros_like(self.batch[Columns.ACTION_LOGP]))
        mask_F = self.batch[Columns.LOSS_MASK].numpy()
        for rows, value_D in zip(update.rows, values[: len(update.rows)], strict=True):
            index = tokens_of_rows(self.lengths_R, rows)
            column_F.numpy()[index[mask_F[index]]] = value_D.cpu().numpy()

    @classmethod
    def cut(
        cls,
        module_id: str,
        batch: TokenBatch,
        layout: TokenLayout,
        over_learners: OverLearners,
        *,
        num_epochs: int,
        num_minibatches: int,
        tokens_per_micro_batch: int,
        aggregation: Aggregation,
        seed: tuple[int, ...],
    ) -> UpdatePlan:
        """Cuts `batch` into updates and agrees with the other learners on their common numbers (three
        collective calls).
        """
        lengths_R = row_lengths(batch)
        sequence_id_R = batch["sequence_id"].numpy()[np.cumsum(lengths_R) - 1]
        tokens_R = np.bincount(batch["row_id"].numpy()[batch[Columns.LOSS_MASK].numpy()])
        minibatches = plan_minibatches(
            sequence_id_R,
            layout.num_sequences,
            num_epochs=num_epochs,
            num_minibatches=num_minibatches,
            seed=seed,
        )
        rows_I = [
            split_micro_batches(rows, lengths_R, sequence_id_R, tokens_per_micro_batch)
            for rows in minibatches
        ]
        tokens_I = over_learners([float(tokens_R[rows].sum()) for rows in minibatches], "sum")
        sequences_I = over_learners(
            [float(np.unique(sequence_id_R[rows]).size) for rows in minibatches], "sum"
        )
        micro_batches_I = over_learners([float(len(rows)) for rows in rows_I], "max")
        share_I = tokens_I if aggregation == "token_mean" else sequences_I
        whole = sum(share_I) / num_epochs
        return cls(
            module_id,
            batch,
            lengths_R,
            layout,
            num_minibatches,
            rows_I=rows_I,
            num_micro_batches_I=[int(count) for count in micro_batches_I],
            weight_scale_I=[whole / share if share else 0.0 for share in share_I],
            num_tokens=sum(tokens_I) / num_epochs,
            num_sequences=sum(sequences_I) / num_epochs,
        )


def plan_minibatches(
    sequence_id_R: np.ndarray,
    num_sequences: int,
    *,
    num_epochs: int,
    num_minibatches: int,
    seed: tuple[int, ...],
) -> list[np.ndarray]:
    """Chooses the rows of each of the num_epochs * num_minibatches updates, in order.

    Each epoch shuffles the sequences of the whole batch by `seed` and cuts them into `num_minibatches` parts
    of equal size (up to one). `sequence_id_R` index the whole batch, so the parts do not depend on how it is
    spread over learners. Dummy rows (sequence id -1) are left out.
    """
    plan = []
    for epoch in range(num_epochs):
        order = np.random.default_rng((*seed, epoch)).permutation(num_sequences)
        minibatch_X = np.empty(num_sequences, dtype=np.int64)
        minibatch_X[order] = np.arange(num_sequences) * num_minibatches // max(num_sequences, 1)
        minibatch_R = np.where(sequence_id_R >= 0, minibatch_X[sequence_id_R] if num_sequences else -1, -1)
        plan += [np.flatnonzero(minibatch_R == k) for k in range(num_minibatches)]
    return plan


def split_micro_batches(
    rows: np.ndarray, lengths_R: np.ndarray, sequence_id_R: np.ndarray, tokens_per_micro_batch: int
) -> list[np.ndarray]:
    """Cuts `rows` into micro-batches of at most `tokens_per_micro_batch` tokens.

    Sequences are sorted by their longest row, longest first: rows of similar length come together, and if
    memory runs out it does so at once. A sequence that alone exceeds the budget gets a micro-batch of its
    own.
    """
    members: dict[int, list[int]] = {}
    for row in rows:
        members.setdefault(int(sequence_id_R[row]), []).append(int(row))
    sequences = sorted(members.values(), key=lambda m: (-max(lengths_R[m]), int(sequence_id_R[m[0]])))
    micro_batches: list[list[int]] = []
    tokens = 0
    for sequence in sequences:
        size = int(lengths_R[sequence].sum())
        if micro_batches and tokens + size <= tokens_per_micro_batch:
            micro_batches[-1] += sequence
            tokens += size
        else:
            micro_batches.append(list(sequence))
            tokens = size
    return [np.array(micro_batch) for micro_batch in micro_batches]
