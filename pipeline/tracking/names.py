"""Readable names: training results as MLflow metrics, a nested configuration as flat, typed parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from envs.credentials import masked
from envs.settings import dotted, tracked_name

METRIC_NAMES = {
    "em": "train/em",
    "em_sampled": "train/em_sampled",
    "f1": "train/f1",
    "outcome_mean": "train/outcome",
    "turns_mean": "train/turns",
    "answered_share": "train/answered",
    "malformed_share": "train/malformed",
    "truncated_share": "train/truncated",
    "tool_error_share": "train/tool_errors",
    "duplicate_share": "train/duplicates",
    "gain_mean": "gain/mean",
    "collapse_share_outcome": "collapse/outcome",
    "collapse_share": "collapse/final",
    "collapse_share_or_faint": "collapse/final_or_faint",
    "collapse_share_or_identical": "collapse/final_or_identical",
    "collapse_signs": "collapse/signs",
    "loss": "learner/loss",
    "kl": "learner/kl",
    "entropy": "learner/entropy",
    "grad_norm": "learner/grad_norm",
    "lr": "learner/lr",
    "mismatch_weight_mean": "learner/mismatch_weight",
    "weights_version": "learner/weights_version",
    "logp_gap_mean": "logp_gap/mean",
    "logp_gap_p999": "logp_gap/p999",
    "logp_gap_max": "logp_gap/max",
    "tokens_sampled": "speed/tokens_sampled",
    "tokens_per_second": "speed/tokens_per_second",
    "no_belief": "batch/no_belief",
    "rollouts": "batch/rollouts",
    "groups": "batch/groups",
    "groups_incomplete": "batch/groups_incomplete",
    "groups_dropped": "batch/groups_dropped",
}
"""Keys of `result["igpo"]` to metric names. `seconds_X` becomes `seconds/X`, `agent/NAME/X` and `policy/ID/X`
stay; any other key becomes `other/KEY`."""

STEP_METRIC = "progress/iteration"
"""Logged with every batch: its history tells which iterations have arrived."""
HELDOUT_PREFIX = "heldout/"
HELDOUT_METRIC = f"{HELDOUT_PREFIX}em_squad"
"""Its history tells which held-out evaluations have arrived."""

PARAMETER_LENGTH = 500
"""The shortest limit among MLflow servers still in use; the whole configuration is an artifact."""


def metrics_of(result: Mapping[str, Any], iteration: int) -> dict[str, float]:
    """Curated metrics of one `train()` result: `result["igpo"]`, and `result["evaluation"]` as `heldout/...`
    if it evaluated.

    Values that are None or not finite are left out: a tracker can neither draw nor compare them.
    """
    named = {STEP_METRIC: iteration}
    for key, value in result.get("igpo", {}).items():
        named[METRIC_NAMES.get(key) or _general_name(key)] = value
    for key, value in (result.get("evaluation") or {}).items():
        named[f"{HELDOUT_PREFIX}{key}"] = value
    numbers = {
        name: value
        for name, value in named.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return {_allowed(name): float(value) for name, value in numbers.items()}


def _general_name(key: str) -> str:
    if key.startswith(("agent/", "policy/")):
        return key
    return f"seconds/{key.removeprefix('seconds_')}" if key.startswith("seconds_") else f"other/{key}"


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the configuration flattened with dots, values as JSON (text stays bare): a reader gets 1e-06,
    true and null back.
    """
    return {_allowed(key): _cut(masked(_text(value))) for key, value in dotted(config).items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _allowed(name: str) -> str:
    return tracked_name(name)[:250]


def _cut(text: str) -> str:
    note = " ... (cut)"
    return text if len(text) <= PARAMETER_LENGTH else text[: PARAMETER_LENGTH - len(note)] + note
