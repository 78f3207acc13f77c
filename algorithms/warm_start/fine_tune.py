"""Supervised fine-tuning on demonstrated rows, with the module and the packed rows that reinforcement
learning uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from algorithms.igpo.learner.minibatches import split_micro_batches, take_rows
from algorithms.igpo.learner.token_batch import Columns
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
    """Trains `module` in place on the decision tokens of `columns`; every token of a batch counts
    the same.
    """

    def __init__(
        self,
        module: HFCausalLM,
        columns: Columns,
        settings: FineTuneSettings,
        device: torch.device | str = "cpu",
    ):
        self.module = module.to(device)
        self.columns = columns
        self.settings = settings
        self.device = device
        self.updates_per_epoch = math.ceil(len(columns["lengths"]) / settings.batch_size)
        self.num_updates = settings.epochs * self.updates_per_epoch
        self._params = [param for param in module.parameters() if param.requires_grad]
        self._optimizer = torch.optim.AdamW(self._params, lr=settings.lr, fused=True)
        self._updates = 0
        module.entropy = "off"

    def epoch(self, progress: Progress, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """One pass over the rows in a new order. False where `should_stop` ended it before the last update.

        Raises:
            FloatingPointError: a gradient is not finite; no step was taken with it.
        """
        self.module.train()
        number = self._updates // self.updates_per_epoch
        order = np.random.default_rng((self.settings.seed, number)).permutation(len(self.columns["lengths"]))
        for rows in np.array_split(order, self.updates_per_epoch):
            if should_stop():
                return False
            loss = self._update(rows)
            progress(self._updates, loss)
        return True

    @torch.no_grad()
    def loss(self, columns: Columns) -> float:
        """Mean negative log-probability of the decision tokens of `columns`, in nats."""
        self.module.eval()
        rows = np.arange(len(columns["lengths"]))
        return sum(
            float(self._share(columns, micro, len_tokens))
            for micro, len_tokens in self._micro_batches(columns, rows)
        )

    def _update(self, rows: np.ndarray) -> float:
        total = 0.0
        for micro, tokens in self._micro_batches(self.columns, rows):
            loss = self._share(self.columns, micro, tokens)
            loss.backward()
            total += float(loss.detach())
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

    def _micro_batches(self, columns: Columns, rows: np.ndarray):
        """(rows of a micro-batch, decision tokens of the whole batch)."""
        tokens = int(columns["decision_mask"][torch.as_tensor(rows)].sum())
        lengths, sequences = columns["lengths"].numpy(), columns["sequence_id"].numpy()
        for micro in split_micro_batches(rows, lengths, sequences, self.settings.tokens_per_micro_batch):
            yield micro, tokens

    def _share(self, columns: Columns, rows: np.ndarray, tokens: int) -> torch.Tensor:
        """What `rows` add to the mean over `tokens` decision tokens."""
        micro = take_rows(columns, rows, self.device)
        return -self.module.forward_train(micro)["token_logp"].sum() / tokens
