"""Metrics of an iteration: rollouts, credit and durations as flat numbers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from math import isnan, nan
from typing import TYPE_CHECKING

import numpy as np
from ray.rllib.utils.metrics import ALL_MODULES, LEARNER_RESULTS
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.igpo.iteration_record import GroupCredit, TurnCredit
from envs.search.trajectory import ActionKind, Rollout, Termination

if TYPE_CHECKING:
    from algorithms.igpo.sampling import SampledBatch

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
    "lr",
)
LARGEST = ("logp_gap_mean", "logp_gap_p999", "logp_gap_max", "lr")
"""Those of them that are the largest of any policy."""
OF_ONE_POLICY = ("loss", "kl", "entropy", "grad_norm", "clip_share", "logp_gap_mean", "lr", "tokens")
"""Metrics that each of several policies has by itself, too."""


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else 0.0


def ending_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Computes the share of each ending, the mean number of turns and the share of calls with an error."""
    calls = [call for rollout in rollouts for turn in rollout.turns for call in turn.tool_calls]
    return {
        "turns_mean": _mean(rollout.num_turns for rollout in rollouts),
        "answered_share": _mean(rollout.termination is Termination.ANSWERED for rollout in rollouts),
        "malformed_share": _mean(rollout.termination is Termination.MALFORMED for rollout in rollouts),
        "truncated_share": _mean(rollout.is_truncated for rollout in rollouts),
        "tool_error_share": _mean(call.error is not None for call in calls),
    }


def duplicate_share(rollouts: Iterable[Rollout]) -> float:
    """Computes the share of rollouts whose decisions an earlier rollout of their group wrote too, word for
    word; 0 without rollouts.

    >>> duplicate_share([])
    0.0
    """
    written: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    total = 0
    for rollout in rollouts:
        written[rollout.group_id].add(tuple(turn.decision_text for turn in rollout.turns))
        total += 1
    return 1 - sum(map(len, written.values())) / total if total else 0.0


def training_metrics(
    rollouts: list[Rollout],
    credit: dict[tuple[str, int], TurnCredit],
    groups: list[GroupCredit],
    replaced: Sequence[Rollout] = (),
) -> dict[str, float]:
    """Computes the metrics of one training batch.

    Args:
        rollouts: the rollouts of the batch.
        credit: their credit, by (rollout id, turn index).
        groups: the groups that were trained on.
        replaced: the rollouts that dynamic sampling (`dapo`) replaced by others.

    Returns:
        Name to value. `em` is exact match in SQuAD's dialect, `f1` is F1 in the paper's; `gain_mean` is the
        mean of the gains before normalisation; `no_belief` is the number of rollouts whose question is played
        without belief. All are of `rollouts`, without those that were replaced, and where groups were chosen
        by their outcomes that is no estimate of how good the policy is; `em_sampled` is the exact match of
        all, and equals `em` where none was replaced.
    """
    return {
        "em": _mean(rollout.metrics["em_squad"] for rollout in rollouts),
        "em_sampled": _mean(rollout.metrics["em_squad"] for rollout in (*rollouts, *replaced)),
        "f1": _mean(rollout.metrics["f1_paper"] for rollout in rollouts),
        "outcome_mean": _mean(rollout.outcome for rollout in rollouts),
        **ending_metrics(rollouts),
        "gain_mean": _mean(turn.gain for turn in credit.values() if turn.gain is not None),
        "collapse_share_outcome": _mean(group.collapsed_outcome for group in groups),
        "collapse_share": _mean(group.collapsed for group in groups),
        "collapse_share_or_faint": _mean(group.collapsed_or_faint for group in groups),
        "no_belief": float(sum(rollout.without_belief for rollout in rollouts)),
        "collapse_share_or_identical": _mean(group.collapsed_or_identical for group in groups),
        "duplicate_share": duplicate_share(rollouts),
        "rollouts": float(len(rollouts)),
        "groups": float(len(groups)),
        "groups_dropped": float(len({rollout.group_id for rollout in rollouts}) - len(groups)),
    }


def agent_metrics(
    rollouts: list[Rollout], credit: dict[tuple[str, int], TurnCredit], agents: Sequence[str]
) -> dict[str, float]:
    """Computes what each agent did and earned in one training batch.

    Args:
        rollouts: the rollouts of the batch.
        credit: their credit, by (rollout id, turn index).
        agents: the names of the roles.

    Returns:
        `agent/NAME/METRIC` to value; nothing where there is one role. `turns_mean` and `tokens_mean`
        (decision tokens) are per rollout. `gain_mean` and `advantage_mean` are over the agent's turns that
        have one, and `malformed_share` (malformed or cut off) over all its turns; they are 0 where it never
        spoke.
    """
    if len(agents) < 2:
        return {}
    metrics = {}
    for agent in agents:
        own = [(rollout, turn) for rollout in rollouts for turn in rollout.turns if turn.agent == agent]
        paid = [credit[key] for rollout, turn in own if (key := (rollout.id, turn.index)) in credit]
        metrics |= {
            f"agent/{agent}/turns_mean": len(own) / max(1, len(rollouts)),
            f"agent/{agent}/tokens_mean": sum(t.num_decision_tokens for _, t in own) / max(1, len(rollouts)),
            f"agent/{agent}/gain_mean": _mean(turn.gain for turn in paid if turn.gain is not None),
            f"agent/{agent}/advantage_mean": _mean(turn.advantage for turn in paid),
            f"agent/{agent}/malformed_share": _mean(
                turn.action in (ActionKind.MALFORMED, ActionKind.CUT_OFF) for _, turn in own
            ),
        }
    return metrics


def evaluation_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Computes the metrics of held-out rollouts.

    Returns:
        Name to value: answer metrics in both dialects, how rollouts ended, and `em_squad` by number of hops
        where that is known.
    """
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
    """Combines the metrics of the last update over the trained policies.

    Log-prob gaps and learning rates are the largest of any policy, losses are summed, all others are means
    weighted by tokens. Where there are several policies, those that learn have their own too.

    A restored logger still has the names of what was measured before its checkpoint, with NaN for a value: a
    policy that is frozen since then, a KL term that the loss has no more.

    Args:
        logger: RLlib's logger, with the learners' results.
        policies: ids of all policies. Frozen ones have no metrics and do not count.

    Returns:
        Name to value; of one of several policies `policy/ID/METRIC`, with `tokens`, the decision tokens that
        it learned from. `kl` is missing where no policy measured it.
    """
    results = logger.peek(LEARNER_RESULTS)
    by_policy = {
        policy: metrics
        for policy in policies
        if not isnan((metrics := results.get(policy, {})).get("tokens", nan))
    }
    trained = list(by_policy.values())
    combined = {}
    for name in LEARNER_METRICS:
        # Of what every update measures NaN is a fault, which `check_gap` must see.
        having = [
            metrics for metrics in trained if name in metrics and not (name == "kl" and isnan(metrics[name]))
        ]
        if not having:
            continue
        parts, weights = [metrics[name] for metrics in having], [metrics["tokens"] for metrics in having]
        if name in LARGEST:
            combined[name] = float(np.max(parts))  # `max` would lose a NaN that is not the first
        elif name == "loss":
            combined[name] = sum(parts)
        else:
            # Without a token of a trained policy in the whole batch all parts are 0.
            tokens = sum(weights) or 1.0
            combined[name] = sum(w * part for w, part in zip(weights, parts, strict=True)) / tokens
    for policy, metrics in by_policy.items() if len(policies) > 1 else ():
        measured = [n for n in OF_ONE_POLICY if n in metrics and not (n == "kl" and isnan(metrics[n]))]
        combined |= {f"policy/{policy}/{name}": float(metrics[name]) for name in measured}
    for name in ("seconds_credit", "peak_gib_learn"):
        combined[name] = results[ALL_MODULES][name]
    return combined


class Stopwatch:
    """Wall-clock seconds by phase.

    >>> clock = Stopwatch()
    >>> with clock("push"):
    ...     pass
    >>> list(clock.seconds)
    ['push']
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Generator[None]:
        """Measures the block as `phase`."""
        started = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - started


def iteration_seconds(batch: SampledBatch, driver: dict[str, float], credit: float) -> dict[str, float]:
    """Collects the wall-clock seconds of every phase of one iteration.

    Args:
        batch: seconds of the sampling, and of its phases inside the runners.
        driver: seconds that the driver measured: learn, push and total; swap (colocated), score (on the
            learner's side) and wait (`max_weight_lag`) where there were any.
        credit: seconds of credit assignment, which are a part of `learn`.

    Returns:
        Phase to seconds; `learn` without `credit`.
    """
    seconds = batch.seconds_by_phase | {
        "sample": batch.seconds,
        "credit": credit,
        "learn": driver["learn"] - credit,
        "push": driver["push"],
        "swap": driver.get("swap", 0.0),
    }
    if "wait" in driver:
        seconds["wait"] = driver["wait"]
    seconds["score"] += driver.get("score", 0.0)
    seconds["total"] = driver["total"]
    return seconds


def batch_metrics(
    batch: SampledBatch, groups: list[GroupCredit], group_size: int, learner_version: int, pushed_bytes: int
) -> dict[str, float]:
    """Computes the metrics of sampling and of the push of weights.

    Args:
        batch: the sampled batch.
        groups: the groups that were trained on.
        group_size: rollouts of a complete group.
        learner_version: version of the learner's weights before the update.
        pushed_bytes: bytes of the pushed weights.
    """
    return {
        "tokens_sampled": float(batch.num_tokens),
        "rollouts_sampled": float(batch.num_rollouts),
        "tokens_per_second": batch.num_tokens / batch.seconds,
        "peak_gib_sample": max(float(m["peak_gib_sample"].peek()) for m in batch.runner_metrics),
        "pushed_mib": pushed_bytes / 2**20,
        "groups_incomplete": float(sum(group.size < group_size for group in groups)),
        "weights_version": float(batch.weights_version),
        "weight_lag": float(learner_version - batch.weights_version),
    }
