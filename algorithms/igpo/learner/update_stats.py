"""What one batch's updates looked like, token by token: sums of a learner that become metrics of the whole
batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from algorithms.igpo.learner.loss import TokenTerms
from algorithms.igpo.model.packing import padded_size

GAP_QUANTILE = 0.999

OverLearners = Callable[[list[float], str], list[float]]
"""Values and "sum" or "max" to the same values reduced over all learners."""


@dataclass(slots=True)
class Measurements:
    """Sums over the decision tokens of one module on one learner; tokens of no weight (turn id -1) are left
    out.
    """

    total: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    ratio_max: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    gap_parts: list[np.ndarray] = field(default_factory=list)
    turn_parts: list[np.ndarray] = field(default_factory=list)

    def add_gap(self, logp_P: torch.Tensor, sampler_logp_P: torch.Tensor, turn_id_P: torch.Tensor) -> None:
        """Learner - sampler of each token, before the first step of the batch."""
        real_P = turn_id_P >= 0
        self.gap_parts.append((logp_P - sampler_logp_P)[real_P].double().cpu().numpy())
        self.turn_parts.append(turn_id_P[real_P].cpu().numpy())

    def add_terms(
        self, terms: TokenTerms, entropy_P: torch.Tensor, weight_P: torch.Tensor, turn_id_P: torch.Tensor
    ) -> None:
        real_P = turn_id_P >= 0
        columns = {
            "passed_tokens": torch.ones_like(terms.ratio),
            "policy_loss": weight_P * terms.policy,
            "entropy": entropy_P,
            "ratio": terms.ratio,
            "clipped": terms.clipped,
            "mismatch_weight": terms.mismatch_weight,
        }
        if terms.kl is not None:
            columns["kl"] = terms.kl
        sums = torch.stack([column[real_P].double().sum() for column in columns.values()]).tolist()
        for name, value in zip(columns, sums, strict=True):
            self.total[name] += value
        if real_P.any():
            self.ratio_max = max(self.ratio_max, float(terms.ratio[real_P].max()))

    def add_micro_batch(self, lengths_N: np.ndarray) -> None:
        self.total["micro_batches"] += 1
        self.total["row_tokens"] += int(lengths_N.sum())
        self.total["padded_tokens"] += padded_size(lengths_N)

    def turn_gaps(self, turn_keys: list[tuple[str, int]]) -> dict[tuple[str, int], np.ndarray]:
        """Learner - sampler of each decision token of each turn that was trained on, in order."""
        gaps, turns = self._gaps()
        order = np.argsort(turns, kind="stable")
        ends_T = np.cumsum(np.bincount(turns, minlength=len(turn_keys)))
        parts = np.split(gaps[order], ends_T)[:-1]
        return {key: part for key, part in zip(turn_keys, parts, strict=True) if len(part)}

    def metrics(self, num_updates: int, over_learners: OverLearners) -> dict[str, float]:
        """Metrics of the batch, the same on every learner (two collective calls); `kl` only where it was
        measured.
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
