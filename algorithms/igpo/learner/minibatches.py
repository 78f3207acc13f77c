"""Cutting a padded batch of rows into minibatches (one optimizer step each) and micro-batches (one forward
each).

A sequence, that is all rows of one (rollout, module), is never cut apart: a ratio may average over all its
tokens.
"""

from __future__ import annotations

import numpy as np
import torch

from algorithms.igpo.learner.token_batch import Columns


def plan_minibatches(
    sequence_id_N: np.ndarray,
    num_sequences: int,
    *,
    num_epochs: int,
    num_minibatches: int,
    seed: tuple[int, ...],
) -> list[np.ndarray]:
    """Row indices of each of the num_epochs * num_minibatches updates, in order.

    Each epoch shuffles the sequences of the whole batch by `seed` and cuts them into `num_minibatches` parts
    of equal size (up to one). `sequence_id_N` are indices into the whole batch, so the parts do not depend on
    how it is spread over learners. Rows of no weight (sequence id -1) are left out.
    """
    plan = []
    for epoch in range(num_epochs):
        order = np.random.default_rng((*seed, epoch)).permutation(num_sequences)
        minibatch_S = np.empty(num_sequences, dtype=np.int64)
        minibatch_S[order] = np.arange(num_sequences) * num_minibatches // max(num_sequences, 1)
        minibatch_N = np.where(sequence_id_N >= 0, minibatch_S[sequence_id_N] if num_sequences else -1, -1)
        plan += [np.flatnonzero(minibatch_N == k) for k in range(num_minibatches)]
    return plan


def split_micro_batches(
    rows: np.ndarray, lengths_N: np.ndarray, sequence_id_N: np.ndarray, tokens_per_micro_batch: int
) -> list[np.ndarray]:
    """Cut `rows` into micro-batches of at most `tokens_per_micro_batch` tokens.

    Sequences are sorted by their longest row, longest first: rows of similar length come together, and memory
    runs out at once if at all. A sequence that alone exceeds the budget gets a micro-batch of its own.
    """
    members: dict[int, list[int]] = {}
    for row in rows:
        members.setdefault(int(sequence_id_N[row]), []).append(int(row))
    sequences = sorted(members.values(), key=lambda m: (-max(lengths_N[m]), int(sequence_id_N[m[0]])))
    micro_batches: list[list[int]] = []
    tokens = 0
    for sequence in sequences:
        size = int(lengths_N[sequence].sum())
        if micro_batches and tokens + size <= tokens_per_micro_batch:
            micro_batches[-1] += sequence
            tokens += size
        else:
            micro_batches.append(list(sequence))
            tokens = size
    return [np.array(micro_batch) for micro_batch in micro_batches]


def take_rows(columns: Columns, rows: np.ndarray, device: torch.device | str = "cpu") -> Columns:
    """The given rows on `device`, padding beyond the longest of them cut off."""
    index = torch.as_tensor(rows, dtype=torch.long)
    width = int(columns["lengths"][index].max())
    return {
        name: (column[index, :width] if column.dim() == 2 else column[index]).to(device, non_blocking=True)
        for name, column in columns.items()
    }


def weightless_batch(columns: Columns, device: torch.device | str = "cpu") -> Columns:
    """One row of two tokens that adds exactly 0 to loss and gradient: what a learner runs while others still
    have work.
    """
    row = {name: column[:1, :2] if column.dim() == 2 else column[:1] for name, column in columns.items()}
    row = {name: torch.zeros_like(column) for name, column in row.items()}
    row["lengths"] += 2
    row["decision_mask"][:, 1] = True
    row["clip_scale"] += 1
    row["turn_id"] -= 1
    row["sequence_id"] -= 1
    return {name: column.to(device) for name, column in row.items()}
