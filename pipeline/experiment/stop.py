"""Stop criteria: the metrics that `stop` of an experiment may name."""

from __future__ import annotations

import re
from typing import Any

from envs.errors import InputError
from pipeline.experiment.keys import shown, unknown_key

STOP_METRICS = {
    "training_iteration",
    "time_total_s",
    "num_env_steps_sampled_lifetime",
    *(
        f"igpo/{name}"
        for name in (
            "em",
            "em_sampled",
            "f1",
            "outcome_mean",
            "gain_mean",
            "collapse_share_outcome",
            "collapse_share",
            "collapse_share_or_faint",
            "collapse_share_or_identical",
            "duplicate_share",
            "collapse_signs",
            "turns_mean",
            "answered_share",
            "malformed_share",
            "truncated_share",
            "tool_error_share",
            "logp_gap_mean",
            "logp_gap_max",
            "loss",
            "kl",
            "entropy",
            "grad_norm",
            "rollouts",
            "groups",
        )
    ),
    *(
        f"evaluation/{name}"
        for name in (
            "em_squad",
            "f1_squad",
            "em_paper",
            "f1_paper",
            "f1_chars",
            "turns_mean",
            "answered_share",
        )
    ),
}
"""Metrics that `stop` may name: keys of `Algorithm.train()`'s result, nested ones with a slash. A run stops
when one is >= its value."""
_STOP_PER_HOP = re.compile(r"evaluation/em_squad_hops_\d+")


def stop_criteria(stop: Any, where: str) -> dict[str, float]:
    """`stop` of an experiment as flat names with slashes.

    Raises:
        InputError: an unknown metric, or a value that is no number. The message begins with `where`.
    """
    if not isinstance(stop, dict):
        raise InputError(
            f"{where}: `stop` must hold metric: value, for instance {{training_iteration: 60}}, found "
            f"{shown(stop)}."
        )
    flat = {}
    for key, value in stop.items():
        pairs = (
            [(f"{key}/{inner}", number) for inner, number in value.items()]
            if isinstance(value, dict)
            else [(key, value)]
        )
        for name, number in pairs:
            if name not in STOP_METRICS and not _STOP_PER_HOP.fullmatch(str(name)):
                raise unknown_key("stop", name, STOP_METRICS, where)
            if isinstance(number, bool) or not isinstance(number, int | float) or number != number:
                raise InputError(f"{where}: `stop.{name}` must be a number, found {shown(number)}.")
            flat[name] = number
    return flat
