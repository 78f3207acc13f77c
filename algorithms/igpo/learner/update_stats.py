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
    """Sums over the decision tokens of one module on one learner; dummy batches are not added.

    What is added stays on the device until `collect`, so that nobody waits for it.
    """

    measures_kl: bool = False
    """Whether the loss of the module has a KL term, also where this learner has dummies alone."""
    total: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums by name. `passed_tokens` counts a decision token once per epoch."""
    ratio_max: float = 0.0
    grad_norms: list[float] = field(default_factory=list)
    gap_parts: list[torch.Tensor] = field(default_factory=list)
    turn_parts: list[np.ndarray] = field(default_factory=list)
    _uncollected: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def add_gap(self, micro: TokenBatch, decisions: TokenBatch, logp_D: torch.Tensor) -> None:
        """Adds the gap learner - sampler of each decision token, measured before the first step.

        Args:
            micro: the micro-batch, on the CPU.
            decisions: its columns at the decision tokens, on the device.
            logp_D: the learner's log-probs of the decision tokens.
        """
        self.gap_parts.append(logp_D - decisions[Columns.ACTION_LOGP])
        self.turn_parts.append(micro["turn_id"].numpy()[micro[Columns.LOSS_MASK].numpy()])

    def add_terms(self, decisions: TokenBatch, terms: TokenTerms, entropy_D: torch.Tensor) -> None:
        """Adds the terms of the loss of one micro-batch, and the entropies at its decision tokens."""
        self.total["passed_tokens"] += len(terms.ratio)
        columns = {
            "policy_loss": decisions["loss_weight"] * terms.policy,
            "entropy": entropy_D.detach(),
            "ratio": terms.ratio,
            "clipped": terms.clipped,
            "mismatch_weight": terms.mismatch_weight,
        }
        if terms.kl is not None:
            columns["kl"] = terms.kl
        sums = {name: column_D.double().sum() for name, column_D in columns.items()}
        self._uncollected.append(sums | {"ratio_max": terms.ratio.max().double()})

    def collect(self) -> None:
        """Adds up what is on the device, and waits for it, once."""
        if not self._uncollected:
            return
        names = list(self._uncollected[0])
        parts = torch.stack([torch.stack(list(part.values())) for part in self._uncollected]).tolist()
        for part in parts:
            for name, value in zip(names, part, strict=True):
                if name == "ratio_max":
                    self.ratio_max = max(self.ratio_max, value)
                else:
                    self.total[name] += value
        self._uncollected.clear()

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
        if self.measures_kl and total["passed_tokens"]:
            metrics["kl"] = total["kl"] / passed
        return metrics

    def _gaps(self) -> tuple[np.ndarray, np.ndarray]:
        if not self.gap_parts:
            return np.zeros(0), np.zeros(0, int)
        return torch.cat(self.gap_parts).double().cpu().numpy(), np.concatenate(self.turn_parts)
