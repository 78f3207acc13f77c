"""The share of the learning rate that an update takes: warm-up, then decay."""

from __future__ import annotations

import math
from typing import Literal

LRDecay = Literal["none", "linear", "cosine"]


def lr_share(
    batch: int, *, warmup: int = 0, decay: LRDecay = "none", until: int | None = None, final: float = 0.0
) -> float:
    """Computes the share of `lr` for all updates of a batch.

    It rises from 1 / warmup to 1 over the first `warmup` batches. From then on it falls, and is `final` after
    batch `until`.

    With warmup 2, linear decay until 6 and final 0: 1/2, 1, then 1, 3/4, 1/2, 1/4, then 0.

    Args:
        batch: number of the batch, from 1.
        warmup: batches of the warm-up.
        decay: how the share falls; `none`: it stays 1.
        until: the last batch of the decay, above `warmup`; None under `none`.
        final: share that is left after it.
    """
    if batch <= warmup:
        return batch / warmup
    if decay == "none" or until is None:
        return 1.0
    progress = min(1.0, (batch - 1 - warmup) / (until - warmup))
    left = 1.0 - progress if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return final + (1.0 - final) * left
