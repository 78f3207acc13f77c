"""Statistics of one batch's updates: sums over this learner's decision tokens, which become metrics of the
whole batch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from algorithms.igpo.learner.loss import TokenTerms
from algorithms.igpo.learner.token_batch import TokenBatch
from algorithms.igpo.learner.update_plan import OverLearners, UpdatePlan
from algorithms.igpo.model.packing import padded_size

GAP_QUANTILE = 0.999


@dataclass(slots=True)
class UpdateStats:
    """Sums over the decision tokens of one module on one learner; those of dummy batches are left out."""

    total: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums by name. `passed_tokens` counts a decision token once per epoch."""
    ratio_max: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    gap_parts: list[np.ndarray] = field(default_factory=list)
    turn_parts: list[np.ndarray] = field(default_factory=list)

    def add_gap(self, micro: TokenBatch, logp_D: torch.Tensor) -> None:
        """Adds the gap learner - sampler of each decision token of `micro`, measured before the first step.

        Args:
            logp_D: the learner's log-probs of the decision tokens.
        """
        turn_id_D, sampler_logp_D = (
            micro[name][micro[Columns.LOSS_MASK]] for name in ("turn_id", Columns.ACTION_LOGP)
        )
        real_D = turn_id_D >= 0
        self.gap_parts.append((logp_D - sampler_logp_D)[real_D].double().cpu().numpy())
        self.turn_parts.append(turn_id_D[real_D].cpu().numpy())

    def add_terms(self, micro: TokenBatch, terms: TokenTerms, entropy_D: torch.Tensor) -> None:
        """Adds the terms of the loss of one micro-batch, and the entropies at its decision tokens."""
        turn_id_D, weight_D = (micro[name][micro[Columns.LOSS_MASK]] for name in ("turn_id", "loss_weight"))
        real_D = turn_id_D >= 0
        columns = {
            "passed_tokens": torch.ones_like(terms.ratio),
            "policy_loss": weight_D * terms.policy,
            "entropy": entropy_D.detach(),
            "ratio": terms.ratio,
            "clipped": terms.clipped,
            "mismatch_weight": terms.mismatch_weight,
        }
        if terms.kl is not None:
            columns["kl"] = terms.kl
        sums = torch.stack([column[real_D].double().sum() for column in columns.values()]).tolist()
        for name, value in zip(columns, sums, strict=True):
            self.total[name] += value
        if real_D.any():
            self.ratio_max = max(self.ratio_max, float(terms.ratio[real_D].max()))

    def add_sizes(self, plan: UpdatePlan, *, ragged: bool) -> None:
        """Adds the sizes of all micro-batches of this learner, with and without attention's padding.

        Args:
            plan: what was run.
            ragged: attention took rows of any length (`algorithms.igpo.model.ragged`): nothing was padded.
        """
        for lengths_R in (plan.lengths_R[rows] for rows in chain.from_iterable(plan.rows_I)):
            tokens = int(lengths_R.sum())
            self.total["micro_batches"] += 1
            self.total["row_tokens"] += tokens
            self.total["padded_tokens"] += tokens if ragged else padded_size(lengths_R)

    def turn_gaps(self, turn_keys: list[tuple[str, int]]) -> dict[tuple[str, int], np.ndarray]:
        """Returns learner - sampler of each decision token of each turn that was trained on, in order."""
        gaps, turns = self._gaps()
        order = np.argsort(turns, kind="stable")
        ends_M = np.cumsum(np.bincount(turns, minlength=len(turn_keys)))
        parts = np.split(gaps[order], ends_M)[:-1]
        return {key: part for key, part in zip(turn_keys, parts, strict=True) if len(part)}

    def metrics(self, num_updates: int, over_learners: OverLearners) -> dict[str, float]:
        """Computes the metrics of the batch (two collective calls).

        All but `micro_batches` are the same on every learner.

        `kl` is among them only if it was measured.
        """
        measured_kl = "kl" in self.total
        gaps = np.abs(self._gaps()[0])
        self.total["gap"], self.total["gap_tokens"] = float(gaps.sum()), float(len(gaps))
        names = [
            "loss",
            "policy_loss",
            "passed_tokens",
            "entropy",
            "ratio",
            "clipped",
            "mismatch_weight",
            "kl",
        ]
        names += ["row_tokens", "padded_tokens", "gap", "gap_tokens"]
        total = dict(zip(names, over_learners([self.total[name] for name in names], "sum"), strict=True))
        largest = (
            [self.ratio_max, gaps.max(), np.quantile(gaps, GAP_QUANTILE)] if len(gaps) else [0.0, 0.0, 0.0]
        )
        ratio_max, gap_max, gap_p999 = over_learners([float(value) for value in largest], "max")
        passed = max(total["passed_tokens"], 1.0)
        metrics = {
            "loss": total["loss"] / num_updates,
            "policy_loss": total["policy_loss"] / num_updates,
            "entropy": total["entropy"] / passed,
            "grad_norm": float(np.mean(self.grad_norms)) if self.grad_norms else 0.0,
            "ratio_mean": total["ratio"] / passed,
            "ratio_max": ratio_max,
            "clip_share": total["clipped"] / passed,
            "mismatch_weight_mean": total["mismatch_weight"] / passed,
            "logp_gap_mean": total["gap"] / max(total["gap_tokens"], 1.0),
            "logp_gap_p999": gap_p999,
            "logp_gap_max": gap_max,
            "padding_share": 1 - total["row_tokens"] / max(total["padded_tokens"], 1.0),
            "micro_batches": self.total["micro_batches"],
        }
        if measured_kl:
            metrics["kl"] = total["kl"] / passed
        return metrics

    def _gaps(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.gap_parts or [np.zeros(0)]), np.concatenate(
            self.turn_parts or [np.zeros(0, int)]
        )
