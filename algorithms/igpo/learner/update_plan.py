"""A module's share of one batch, cut into updates (optimizer steps) and micro-batches (forwards).

What concerns the whole batch is agreed on with the other learners before the first forward: all of them run
the same number of micro-batches, and those with less work add rows of no weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from algorithms.igpo.learner.loss import Aggregation
from algorithms.igpo.learner.minibatches import (
    plan_minibatches,
    split_micro_batches,
    take_rows,
    weightless_batch,
)
from algorithms.igpo.learner.token_batch import Columns, TokenLayout
from algorithms.igpo.learner.update_stats import Measurements, OverLearners

TokenLogp = Callable[[Columns], torch.Tensor]
"""Columns of a micro-batch to the log-probs of its tokens after the first, [N, L - 1]; 0 off the decision
mask."""


@dataclass(slots=True)
class Work:
    """One module's share of a batch."""

    module_id: str
    columns: Columns
    layout: TokenLayout
    updates: list[list[np.ndarray]]
    """Rows of each micro-batch of each update."""
    num_micro_batches: list[int]
    """Per update: the most that any learner has."""
    weight_scale: list[float]
    """Per update: the batch over the minibatch, in sequences or tokens; 0 if no learner has tokens in it."""
    size: dict[str, float]
    """Decision tokens and sequences of the whole batch."""
    measured: Measurements = field(default_factory=Measurements)

    def micro_batch(self, update: int, k: int, device: torch.device) -> Columns:
        """The k-th micro-batch of `update`, weighted as a part of its minibatch; one of no weight where only
        others have work.
        """
        own = self.updates[update]
        if k < len(own):
            micro = take_rows(self.columns, own[k], device)
            self.measured.add_micro_batch(self.columns["lengths"].numpy()[own[k]])
        else:
            micro = weightless_batch(self.columns, device)
        micro["loss_weight"] = micro["loss_weight"] * self.weight_scale[update]
        return micro

    @torch.no_grad()
    def measure_before_updates(
        self,
        policy: TokenLogp,
        reference: TokenLogp | None,
        device: torch.device,
        *,
        num_minibatches: int,
        together: bool,
    ) -> None:
        """Adds the columns `old_logp` (pi_old) and, with a reference, `reference_logp`, and notes the gap to
        the sampler.

        For several updates per batch, before the first one. `together`: a forward needs every learner, so all
        make as many.
        """
        self.columns["old_logp"] = torch.zeros_like(self.columns["sampler_logp"])
        if reference is not None:
            self.columns["reference_logp"] = torch.zeros_like(self.columns["sampler_logp"])
        own = [rows for update in self.updates[:num_minibatches] for rows in update]
        for rows in own:
            micro = take_rows(self.columns, rows, device)
            mask = micro["decision_mask"][:, 1:]
            logp = policy(micro)
            width = logp.shape[1] + 1
            self.columns["old_logp"][rows, 1:width] = logp.cpu()
            self.measured.add_gap(
                logp[mask], micro["sampler_logp"][:, 1:][mask], micro["turn_id"][:, 1:][mask]
            )
            if reference is not None:
                self.columns["reference_logp"][rows, 1:width] = reference(micro).cpu()
        if together:
            micro = weightless_batch(self.columns, device)
            for _ in range(sum(self.num_micro_batches[:num_minibatches]) - len(own)):
                policy(micro)
                if reference is not None:
                    reference(micro)

    def refuse_non_finite(
        self, update: int, losses: list[float], where: str, over_learners: OverLearners
    ) -> None:
        """Raises FloatingPointError on every learner where the loss of a micro-batch of any is not finite (a
        collective call).
        """
        bad = [k for k, loss in enumerate(losses) if not math.isfinite(loss)]
        if not over_learners([float(len(bad))], "sum")[0]:
            return
        own = self.updates[update]
        rollouts = sorted({self.layout.rollout_ids_N[row] for k in bad if k < len(own) for row in own[k]})
        names = ", ".join(rollouts[:8]) + (" ..." if len(rollouts) > 8 else "")
        raise FloatingPointError(
            f"the loss is not finite in module {self.module_id}, {where}, among the rollouts "
            f"{names or 'of another learner'}; no "
            "step was taken. Lower lr, or look at them in the rollout log"
        )


def plan_work(
    module_id: str,
    columns: Columns,
    layout: TokenLayout,
    over_learners: OverLearners,
    *,
    num_epochs: int,
    num_minibatches: int,
    tokens_per_micro_batch: int,
    aggregation: Aggregation,
    seed: tuple[int, ...],
) -> Work:
    """Cuts the batch, and settles with the other learners on what concerns all (three collective calls)."""
    sequence_id_N, lengths_N = columns["sequence_id"].numpy(), columns["lengths"].numpy()
    minibatches = plan_minibatches(
        sequence_id_N, layout.num_sequences, num_epochs=num_epochs, num_minibatches=num_minibatches, seed=seed
    )
    updates = [
        split_micro_batches(rows, lengths_N, sequence_id_N, tokens_per_micro_batch) for rows in minibatches
    ]
    tokens_N = columns["decision_mask"].sum(1).numpy()
    tokens_U = over_learners([float(tokens_N[rows].sum()) for rows in minibatches], "sum")
    sequences_U = over_learners([float(np.unique(sequence_id_N[rows]).size) for rows in minibatches], "sum")
    share_U = tokens_U if aggregation == "token_mean" else sequences_U
    batch = sum(share_U) / num_epochs
    return Work(
        module_id=module_id,
        columns=columns,
        layout=layout,
        updates=updates,
        num_micro_batches=[int(n) for n in over_learners([float(len(u)) for u in updates], "max")],
        weight_scale=[batch / share if share else 0.0 for share in share_U],
        size={
            name: sum(n_U) / num_epochs for name, n_U in (("tokens", tokens_U), ("sequences", sequences_U))
        },
    )
