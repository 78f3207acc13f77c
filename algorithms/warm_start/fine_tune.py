"""Supervised fine-tuning on demonstrated rows, with the module and the token batches of reinforcement
learning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from algorithms.igpo.learner.token_batch import TokenBatch, row_lengths, take_rows
from algorithms.igpo.learner.update_plan import split_micro_batches
from algorithms.igpo.model.causal_lm import HFCausalLM

Progress = Callable[[int, float], None]
"""Called after each update with its number, from 1, and its loss."""
WARM_UP = 0.1
"""Share of the updates over which the learning rate grows; then it falls to 0 along a line."""


@dataclass(frozen=True)
class FineTuneSettings:
    """`batch_size` is demonstrations per update; `tokens_per_micro_batch` bounds memory only."""

    epochs: int = 3
    batch_size: int = 16
    lr: float = 1e-4
    grad_clip: float = 1.0
    seed: int = 0
    tokens_per_micro_batch: int = 4096


class FineTuner:
    """Trains `module` in place on the decision tokens of `rows`; every token of an update counts the same."""

    def __init__(
        self,
        module: HFCausalLM,
        rows: TokenBatch,
        settings: FineTuneSettings,
        device: torch.device | str = "cpu",
    ):
        self.module = module.to(device)
        self.rows = rows
        self.settings = settings
        self.updates_per_epoch = math.ceil(_num_rows(rows) / settings.batch_size)
        self.num_updates = settings.epochs * self.updates_per_epoch
        self._params = [param for param in module.parameters() if param.requires_grad]
        self._optimizer = torch.optim.AdamW(self._params, lr=settings.lr, fused=True)
        self._updates = 0
        module.entropy = "off"

    def epoch(self, progress: Progress, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Makes one pass over the rows in a new order.

        Returns:
            False if `should_stop` ended it before the last update.

        Raises:
            FloatingPointError: a gradient is not finite; no step was taken with it.
        """
        self.module.train()
        number = self._updates // self.updates_per_epoch
        order = np.random.default_rng((self.settings.seed, number)).permutation(_num_rows(self.rows))
        for rows in np.array_split(order, self.updates_per_epoch):
            if should_stop():
                return False
            loss = self._update(rows)
            progress(self._updates, loss)
        return True

    @torch.no_grad()
    def loss(self, rows: TokenBatch) -> float:
        """Computes the mean negative log-probability of the decision tokens of `rows`, in nats."""
        self.module.eval()
        return _sum(list(self._shares(rows, np.arange(_num_rows(rows)))))

    def _update(self, rows: np.ndarray) -> float:
        losses = []
        for loss in self._shares(self.rows, rows):
            loss.backward()
            losses.append(loss.detach())
        total = _sum(losses)
        norm = torch.nn.utils.clip_grad_norm_(self._params, self.settings.grad_clip)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(
                f"the norm of the gradient is {float(norm)} in update {self._updates + 1}: lower the rate"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr * self._rate()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._updates += 1
        return total

    def _rate(self) -> float:
        done, warm_up = self._updates, max(1, round(WARM_UP * self.num_updates))
        return min((done + 1) / warm_up, (self.num_updates - done) / max(1, self.num_updates - warm_up))

    def _shares(self, batch: TokenBatch, rows: np.ndarray) -> Iterator[torch.Tensor]:
        """Yields the share of each micro-batch in the mean loss over the decision tokens of `rows`."""
        lengths_N = row_lengths(batch)
        tokens = int(take_rows(batch, lengths_N, rows)[Columns.LOSS_MASK].sum())
        budget = self.settings.tokens_per_micro_batch
        for micro_rows in split_micro_batches(rows, lengths_N, np.arange(len(lengths_N)), budget):
            micro = take_rows(batch, lengths_N, micro_rows)
            yield -self.module.forward_train(micro)["token_logp"].sum() / tokens


def _sum(losses: list[torch.Tensor]) -> float:
    """Waits for the device, which computes micro-batch after micro-batch until then."""
    return sum(torch.stack(losses).double().tolist())


def _num_rows(batch: TokenBatch) -> int:
    return len(row_lengths(batch))
