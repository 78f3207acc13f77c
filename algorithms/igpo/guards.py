"""Checks that stop a run which would learn from wrong numbers."""

from __future__ import annotations

from collections import Counter

from envs.search.trajectory import Rollout

MAX_LOGP_GAP = {"float32": 1e-4, "bfloat16": 0.05}
"""Default of `max_logp_gap` for each `model_dtype`, nats."""


def check_gap(gap_mean: float, bound: float, weights_version: int) -> None:
    """Checks that sampler and learner, at the same weights, agree on the log-probs of the sampled tokens.

    Args:
        gap_mean: mean |learner log-prob - sampler log-prob| over the sampled tokens, nats.
        bound: largest mean allowed (`max_logp_gap`), nats.
        weights_version: version of the weights that both used.

    Raises:
        RuntimeError: the mean gap is above the bound, or not a number.
    """
    if not gap_mean <= bound:  # NaN too
        raise RuntimeError(
            f"sampler and learner disagree on the log-probs of sampled tokens: mean gap {gap_mean:.2g} is "
            f"above max_logp_gap {bound:.2g} at weights version {weights_version}. Stale or wrongly loaded "
            "weights, or another dtype in the engine"
        )


def check_tools(rollouts: list[Rollout], max_share: float, when: str = "in this iteration") -> None:
    """Checks that tools work. The policy's own mistakes, such as an unknown tool, do not count as failures.

    Args:
        rollouts: rollouts whose tool calls are counted.
        max_share: largest share of failed calls allowed (`max_tool_error_share`), in [0, 1].
        when: end of the error's first clause.

    Raises:
        RuntimeError: more calls failed; the message names the most common error.
    """
    calls = [call for rollout in rollouts for turn in rollout.turns for call in turn.tool_calls]
    failures = Counter(call.error for call in calls if call.failed)
    if calls and failures.total() / len(calls) > max_share:
        (error, _), *_ = failures.most_common(1)
        raise RuntimeError(
            f"{failures.total()} of {len(calls)} tool calls failed {when}, more than max_tool_error_share "
            f"{max_share:g}; the commonest error: {error}"
        )
