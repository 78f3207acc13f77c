"""Rollouts and their credit as the flat numbers that a person watches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from ray.rllib.utils.metrics import ALL_MODULES, LEARNER_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.igpo.iteration_record import GroupCredit, TurnCredit
from envs.search.trajectory import Rollout, Termination

LEARNER_METRICS = (
    "loss",
    "kl",
    "entropy",
    "grad_norm",
    "mismatch_weight_mean",
    "clip_share",
    "logp_gap_mean",
    "logp_gap_p999",
    "logp_gap_max",
    "padding_share",
)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else 0.0


def ending_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """How rollouts ended, as shares of them, their mean number of turns, and the share of tool calls with an
    error.
    """
    calls = [call for rollout in rollouts for turn in rollout.turns for call in turn.tool_calls]
    return {
        "turns_mean": _mean(rollout.num_turns for rollout in rollouts),
        "answered_share": _mean(rollout.termination is Termination.ANSWERED for rollout in rollouts),
        "malformed_share": _mean(rollout.termination is Termination.MALFORMED for rollout in rollouts),
        "truncated_share": _mean(rollout.is_truncated for rollout in rollouts),
        "tool_error_share": _mean(call.error is not None for call in calls),
    }


def training_metrics(
    rollouts: list[Rollout], credit: dict[tuple[str, int], TurnCredit], groups: list[GroupCredit]
) -> dict[str, float]:
    """The metrics of one training batch. `em` is SQuAD's, `f1` the paper's; gains are the raw ones."""
    return {
        "em": _mean(rollout.metrics["em_squad"] for rollout in rollouts),
        "f1": _mean(rollout.metrics["f1_paper"] for rollout in rollouts),
        "outcome_mean": _mean(rollout.outcome for rollout in rollouts),
        **ending_metrics(rollouts),
        "gain_mean": _mean(turn.gain for turn in credit.values() if turn.gain is not None),
        "collapse_share_outcome": _mean(group.collapsed_outcome for group in groups),
        "collapse_share": _mean(group.collapsed for group in groups),
        "collapse_share_or_faint": _mean(group.collapsed_or_faint for group in groups),
        "rollouts": float(len(rollouts)),
        "groups": float(len(groups)),
        "groups_dropped": float(len({rollout.group_id for rollout in rollouts}) - len(groups)),
    }


def evaluation_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Answer metrics in both dialects, `em_squad` by number of hops where known, and how rollouts ended."""
    by_hops: dict[int, list[float]] = defaultdict(list)
    for rollout in rollouts:
        if rollout.question.hops is not None:
            by_hops[rollout.question.hops].append(rollout.metrics["em_squad"])
    names = rollouts[0].metrics if rollouts else ()
    return {
        **{name: _mean(rollout.metrics[name] for rollout in rollouts) for name in names},
        "questions": float(len({rollout.question.id for rollout in rollouts})),
        **ending_metrics(rollouts),
        **{f"em_squad_hops_{hops}": _mean(values) for hops, values in sorted(by_hops.items())},
    }


def learner_metrics(logger: MetricsLogger, policies: list[str]) -> dict[str, float]:
    """The trained modules' metrics: gaps are the largest over modules, losses the sum, the rest the
    token-weighted mean.

    A frozen policy has none of them, and `kl` is left out where nobody measured it.
    """
    results = logger.peek(LEARNER_RESULTS)
    trained = [results[module_id] for module_id in policies if "tokens" in results.get(module_id, {})]
    combined = {}
    for name in LEARNER_METRICS:
        having = [metrics for metrics in trained if name in metrics]
        if not having:
            continue
        parts, weights = [metrics[name] for metrics in having], [metrics["tokens"] for metrics in having]
        if name.startswith("logp_gap"):
            combined[name] = max(parts)
        elif name == "loss":
            combined[name] = sum(parts)
        else:
            tokens = (
                sum(weights) or 1.0
            )  # none where no trained policy spoke in the whole batch: all of them are 0 then
            combined[name] = sum(w * part for w, part in zip(weights, parts, strict=True)) / tokens
    for name in ("seconds_credit", "peak_gib_learn"):
        combined[name] = results[ALL_MODULES][name]
    return combined


def sampling_seconds(runner_metrics: list) -> dict[str, float]:
    """Seconds of each phase of one round of sampling: of the slowest runner."""
    return {
        name: max(float(metrics[f"seconds_{name}"].peek()) for metrics in runner_metrics)
        for name in ("generate", "score", "tools", "host")
    }
