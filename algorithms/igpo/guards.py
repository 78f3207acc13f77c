"""What stops a run: signs that it learns from wrong numbers. Better no run than one that looks right."""

from __future__ import annotations

from collections import Counter

from envs.search.trajectory import Rollout

MAX_LOGP_GAP = {"float32": 1e-4, "bfloat16": 0.05}
"""The default of `max_logp_gap` by `model_dtype`, nats."""


def check_gap(gap_mean: float, bound: float, weights_version: int) -> None:
    """Raises RuntimeError where sampler and learner, at the same weights, disagree on the sampled tokens'
    log-probs.

    Args:
        gap_mean: mean |learner log-prob - sampler log-prob|, nats.
        bound: largest mean allowed (`max_logp_gap`).
        weights_version: what both held.
    """
    if gap_mean > bound:
        raise RuntimeError(
            f"sampler and learner disagree on the log-probs of sampled tokens: mean gap {gap_mean:.2g} is "
            "above max_logp_gap "
            f"{bound:.2g} at weights version {weights_version}. Stale or wrongly loaded weights, or another "
            "dtype in the engine"
        )


def check_tools(rollouts: list[Rollout], max_share: float, when: str = "in this iteration") -> None:
    """Raises RuntimeError where more than `max_share` of the tool calls failed (the policy's own errors are
    not counted).
    """
    calls = [call for rollout in rollouts for turn in rollout.turns for call in turn.tool_calls]
    failures = Counter(call.error for call in calls if call.failed)
    if calls and failures.total() / len(calls) > max_share:
        (error, _), *_ = failures.most_common(1)
        raise RuntimeError(
            f"{failures.total()} of {len(calls)} tool calls failed {when}, more than max_tool_error_share "
            f"{max_share:g}; the "
            f"commonest error: {error}"
        )
