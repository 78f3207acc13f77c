"""`LossSettings`: every choice of the policy loss, checked when it is made. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Real
from typing import Literal, get_args

RatioLevel = Literal["token", "turn", "sequence"]
Aggregation = Literal["seq_mean_token_mean", "token_mean", "seq_mean_token_sum"]


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Settings of the policy loss (definitions: Loss).

    The defaults are the only ones in this project. The paper (arXiv 2510.14967v2) states `kl_coeff` and
    `loss_aggregation`; it leaves the clip bounds open, and 0.2 is the value in the authors' code.

    Raises:
        ValueError: a value is unknown or out of range; the message lists what is allowed.
    """

    ratio_level: RatioLevel = "token"
    """Span over which log-ratios are averaged before exponentiation: `token` (PPO), `turn` (A2TGPO) or
    `sequence` (GSPO)."""
    clip_low: float = 0.2
    """The ratio is clipped to [1 - clip_low, 1 + clip_high]; 0 or more."""
    clip_high: float = 0.2
    """See `clip_low`; 0 or more."""
    dual_clip: float | None = None
    """Lower bound `dual_clip * A` of the clipped term where A < 0; must be above 1. None: off."""
    kl_coeff: float = 0.001
    """Coefficient of the k3 KL divergence to the frozen initial model; 0: no reference model is kept."""
    entropy_coeff: float = 0.0
    """Coefficient of the entropy bonus; 0: no bonus."""
    loss_aggregation: Aggregation = "seq_mean_token_mean"
    """How the terms of tokens are averaged: mean over sequences of their token means
    (`seq_mean_token_mean`), mean over all tokens (`token_mean`), or mean over sequences of their token sums
    (`seq_mean_token_sum`)."""
    mismatch_cap: float = 2.0
    """C of the mismatch weight min(pi_old / pi_sampler, C). 0: the weight is 1, and the value capped at 2 is
    only logged."""

    def __post_init__(self):
        for name, value, allowed in (
            ("ratio_level", self.ratio_level, get_args(RatioLevel)),
            ("loss_aggregation", self.loss_aggregation, get_args(Aggregation)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}")
        for name in ("clip_low", "clip_high", "kl_coeff", "entropy_coeff", "mismatch_cap"):
            if not (_is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be 0 or more")
        if self.dual_clip is not None and not (_is_number(self.dual_clip) and self.dual_clip > 1):
            raise ValueError(f"dual_clip is {self.dual_clip!r}; it must be above 1, or null for no dual clip")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


LOSS_FIELDS = tuple(field.name for field in fields(LossSettings))
"""Names of the loss settings, in order."""
