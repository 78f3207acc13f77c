"""`CreditConfig`: every choice between rewards and advantages, checked when it is made.

The fields are the words of the definitions page; a preset is one value of this class plus settings of the
loss and the environment (`algorithms.credit.presets`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

GainBasis = Literal["log_prob", "prob", "log_ratio"]
AliasRule = Literal["first", "max", "mean"]
Normalisation = Literal["separate", "joint", "turn_index", "scale_only", "returns", "none"]
OutcomeBaseline = Literal["group_zscore", "rloo", "batch_zscore", "belief"]
ReturnBaseline = Literal["reached", "group"]
DepthRescale = Literal["none", "sqrt"]
IGGate = Literal["off", "valid_format"]
IGFade = Literal["off", "solved"]

LARGEST_REWARD = 1e30
"""Bound of outcomes, gains and weights. Squares and sums of larger ones would leave float64, and advantages
float32, in which the loss is computed."""
BEYOND = f"rewards must lie within +-{LARGEST_REWARD:g}: scale them"


def require_known(name: str, value: object, known: object) -> None:
    """Raises ValueError listing the known values of setting `name`, unless `value` is one of the `Literal`
    type `known`.
    """
    values = get_args(known)
    if value not in values:
        raise ValueError(f"{name}={value!r} is unknown; known values: {', '.join(values)}")


@dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """The rules that turn gains and outcomes into advantages.

    A_i,t = ig_weight * D_i,t + outcome_weight * O_i,t, with D the discounted sum of the normalised gains from
    turn t on and O the normalised outcome discounted back from the last turn. The defaults are IGPO as of
    arXiv 2510.14967v2, Eq. 5-6.

    Raises:
        ValueError: a value is out of range or unknown (the message lists the known ones), or two settings
            contradict each other.
    """

    gain_basis: GainBasis = "log_prob"
    """g_t from the scores s_t: `log_prob` s_t - s_{t-1}; `prob` exp(s_t) - exp(s_{t-1});
    `log_ratio` log((-s_{t-1} + gap_eps) / (-s_t + gap_eps))."""
    gap_eps: float = 0.1
    """Offset of the remaining gap -s in nats, > 0; read by `log_ratio` only."""
    normalisation: Normalisation = "separate"
    """`separate`: gains z-scored over the group, outcomes apart. `joint`: all gains and outcomes of the group
    in one z-score. `turn_index`: gains z-scored per (group, role, k-th gain of that role). `scale_only`:
    gains divided by their standard deviation over the group, no mean subtracted. `returns`: belief
    still to come, gamma^n b_T - b_{t-1} with n gain-bearing turns from t on, minus its mean by
    `return_baseline`, divided by the spread of these differences in the group. A final turn takes part
    with 0, so searching on is compared with answering now. A rollout that ends without an answer has 0 for
    b_T, so it pays back the belief that it built up. `none`: raw gains. Outcomes follow `outcome_baseline`,
    except under `joint`."""
    return_baseline: ReturnBaseline = "reached"
    """Under `returns`, which of the group's rollouts the mean is taken over. `reached`: those that reach a
    k-th turn of the same role. `group`: all, with 0 for one that has no such turn, so that a turn which few
    reach is still compared with having stopped."""
    std_floor: float = 0.0
    """Least standard deviation that gains are divided by, in units of the gain basis, >= 0. Below it gains
    are noise, which a z-score would make as large as a signal. Not read by `joint` and `none`."""
    gamma: float = 1.0
    """Discount per turn of later gains, in [0, 1]; 0 keeps the turn's own gain alone. Under `returns` it
    discounts belief, so that a search costs a share 1 - gamma of what is believed after it."""
    outcome_gamma: float | None = None
    """Discount per turn of the outcome on its way back from the last turn, in [0, 1]; None: `gamma`."""
    ig_weight: float = 1.0
    """Weight of the discounted gains in the advantage."""
    outcome_weight: float = 1.0
    """Weight of the outcome in the advantage."""
    depth_rescale: DepthRescale = "none"
    """`sqrt`: D divided by the square root of its number of terms."""
    ig_gate: IGGate = "off"
    """`valid_format`: the gains of a malformed rollout leave the statistics and count 0. Under `returns` all
    its turns do, and it pays nothing back."""
    ig_fade: IGFade = "off"
    """`solved`: `ig_weight` times 1 less the group's mean outcome, between 0 and 1. Gain counts in full where
    every rollout fails, and not at all where all are right."""
    drop_gains_at_turn_limit: bool = False
    """The same for the gains of a rollout that spent all its turns without an answer (the official code does
    so)."""
    outcome_baseline: OutcomeBaseline = "group_zscore"
    """`group_zscore`: (o - group mean) / (group std + eps). `rloo`: o minus the mean of the group's other
    outcomes. `batch_zscore`: (o - batch mean) / (batch std + eps), each rollout once. `belief`: o minus the
    belief b after the rollout's last scored turn; with the gains of basis `prob`, not normalised, the rewards
    of a rollout then add up to o - b_0. A question that is played without belief takes `rloo` instead."""
    window: int | None = None
    """K: D becomes the gamma-weighted mean of the next K gains, fewer at the end of the rollout (TRACE);
    None: the sum of all."""
    window_outcome_scale: float = 0.0
    """TRACE's terminal fill: scale * gamma^(turns to the end) * normalised outcome, added to D where the
    window reaches the last gain. Needs `window`."""
    turn_clip_scale: float = 0.0
    """Amplitude a in [0, 1) of the per-turn clip scale 1 + a (2 sigmoid(normalised gain) - 1); 0: no scaling.
    """

    def __post_init__(self):
        require_known("gain_basis", self.gain_basis, GainBasis)
        require_known("normalisation", self.normalisation, Normalisation)
        require_known("return_baseline", self.return_baseline, ReturnBaseline)
        require_known("depth_rescale", self.depth_rescale, DepthRescale)
        require_known("ig_gate", self.ig_gate, IGGate)
        require_known("ig_fade", self.ig_fade, IGFade)
        require_known("outcome_baseline", self.outcome_baseline, OutcomeBaseline)
        for name in ("ig_weight", "outcome_weight", "window_outcome_scale"):
            if not abs(getattr(self, name)) <= LARGEST_REWARD:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be a finite number within +-{LARGEST_REWARD:g}"
                )
        for name in ("gamma", "outcome_gamma"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name}={value!r} must lie in [0, 1]: it discounts per turn")
        if not 0.0 <= self.std_floor <= LARGEST_REWARD:
            raise ValueError(f"std_floor={self.std_floor!r} must be finite and at least 0")
        if not (math.isfinite(self.gap_eps) and self.gap_eps > 0):
            raise ValueError(f"gap_eps={self.gap_eps!r} must be finite and above 0")
        if not 0.0 <= self.turn_clip_scale < 1.0:
            raise ValueError(
                f"turn_clip_scale={self.turn_clip_scale!r} must lie in [0, 1), or a clip bound could reach 0"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(
                f"window={self.window!r} must be at least 1 turn, or None for the sum of all later gains"
            )
        if self.window is not None and self.depth_rescale != "none":
            raise ValueError("window already averages over its turns: use it with depth_rescale='none'")
        if self.window is None and self.window_outcome_scale != 0.0:
            raise ValueError("window_outcome_scale needs a window; set window, or leave the scale at 0")
        if self.std_floor and self.normalisation in ("joint", "none"):
            raise ValueError(
                f"std_floor has no effect with normalisation={self.normalisation!r}: leave it at 0, or use "
                "'separate', 'turn_index', 'scale_only' or 'returns'"
            )
        if self.normalisation != "returns" and self.return_baseline != "reached":
            raise ValueError(
                f"return_baseline={self.return_baseline!r} has no effect with normalisation="
                f"{self.normalisation!r}: set return_baseline='reached', or use normalisation='returns'"
            )
        if self.normalisation == "returns":
            if self.gain_basis != "prob":
                raise ValueError(
                    "normalisation='returns' takes belief as 0 where a rollout ends without an answer, so it "
                    f"needs gain_basis='prob', not {self.gain_basis!r}"
                )
            if self.window is not None or self.depth_rescale != "none":
                raise ValueError(
                    "normalisation='returns' sums the gains itself: use no window and depth_rescale='none'"
                )
        if self.normalisation == "joint" and self.outcome_baseline != "group_zscore":
            raise ValueError(
                f"normalisation='joint' z-scores outcomes together with gains, so outcome_baseline="
                f"{self.outcome_baseline!r} cannot apply; use 'separate', or outcome_baseline='group_zscore'"
            )

    @property
    def resolved_outcome_gamma(self) -> float:
        """`outcome_gamma`, or `gamma` where it is None."""
        return self.gamma if self.outcome_gamma is None else self.outcome_gamma

    @property
    def reads_belief(self) -> bool:
        """Whether advantages or clip scales depend on belief; if not, rollouts need no scores."""
        return (
            self.ig_weight != 0
            or self.normalisation == "joint"
            or self.outcome_baseline == "belief"
            or self.turn_clip_scale != 0
        )


CREDIT_FIELDS = tuple(field.name for field in fields(CreditConfig))
"""Names of the settings of `CreditConfig`."""


def require_credit_fields(names: Iterable[str]) -> None:
    """Raises ValueError for a name that is no setting of credit: the nearest, else all known ones."""
    for name in sorted(set(names) - set(CREDIT_FIELDS)):
        near = difflib.get_close_matches(name, CREDIT_FIELDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CREDIT_FIELDS)}"
        raise ValueError(f"unknown credit setting {name!r}; {hint}")


REMOVED = "truncated_pays_back"
"""A setting that versions before this one had. Experiments and logs may still hold it, as false or null."""


def without_removed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the setting `REMOVED` from the settings of an older experiment or log.

    Raises:
        ValueError: it is set, so that this version would compute another credit.
    """
    if settings.get(REMOVED) not in (None, False):
        raise ValueError(
            f"`{REMOVED}: {str(settings[REMOVED]).lower()}` was removed during the development of version "
            "0.1.0"
        )
    return {name: value for name, value in settings.items() if name != REMOVED}
