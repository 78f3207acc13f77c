"""Why a turn has its advantage: the part that the gains gave it and the part of the outcome.

A_t = ig_weight * D_t + outcome_weight * O_t (definitions: From rewards to advantages). D_t follows from the
logged normalised gains of the rollout and the run's settings; the outcome's part is the rest. Where it is not
what an outcome can give, the rollout's credit was not made so, and nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from algorithms.credit import CREDIT_FIELDS, PRESETS, CreditConfig, TurnBatch, without_removed
from algorithms.credit.returns import discounted_gains

UNITS = {"log_prob": "nats", "prob": "of probability", "log_ratio": "of log ratio"}
"""Gain basis to the unit of a gain."""
ROUNDING = 1e-9
"""Share of the largest advantage of a rollout below which a difference is rounding."""


def logged_credit(config: str | None) -> CreditConfig | None:
    """The settings of credit in `runs.config`; None where it has none, or an estimator of one's own."""
    settings = json.loads(config or "{}").get("config", {})
    if settings.get("preset") not in PRESETS:
        return None
    try:
        settings = without_removed(settings)
        changed = {name: settings[name] for name in CREDIT_FIELDS if settings.get(name) is not None}
        values = asdict(PRESETS[settings["preset"]].credit) | changed
        return TypeAdapter(CreditConfig).validate_python(values)
    except (ValidationError, ValueError):
        return None


def credit_parts(
    turns_T: Sequence[Mapping[str, Any]], credit: CreditConfig | None
) -> list[tuple[float, float] | None]:
    """Splits the advantage of every turn of a rollout.

    Args:
        turns_T: all rows of `turns` of the rollout in time order.
        credit: the settings that it was trained with; None: not known.

    Returns:
        (of the gains from this turn on, of the outcome) per turn; all None where the log does not hold it.
    """
    nothing: list[tuple[float, float] | None] = [None] * len(turns_T)
    if credit is None or credit.normalisation == "returns" or credit.window is not None:
        return nothing
    if not turns_T or any(turn["advantage"] is None for turn in turns_T):
        return nothing
    gains = [turn["normalised_gain"] for turn in turns_T]
    if gains[-1] is not None:
        return nothing
    batch = TurnBatch.from_lists([0], [0.0], [gains[:-1]])
    later_T, terms_T = discounted_gains(batch, np.nan_to_num(batch.gains_M), credit.gamma)
    if credit.depth_rescale == "sqrt":
        later_T = later_T / np.sqrt(np.maximum(terms_T, 1))
    gains_T = credit.ig_weight * later_T
    advantages_T = np.array([turn["advantage"] for turn in turns_T])
    outcome_T = advantages_T - gains_T
    expected_T = outcome_T[-1] * np.float64(credit.resolved_outcome_gamma) ** np.arange(len(turns_T))[::-1]
    scale = max(np.abs(advantages_T).max(), np.abs(gains_T).max())
    if not np.abs(outcome_T - expected_T).max() <= ROUNDING * scale:
        return nothing
    return list(zip(gains_T.tolist(), expected_T.tolist(), strict=True))
