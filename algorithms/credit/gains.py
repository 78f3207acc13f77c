"""From scores of the gold answer to information gains.

A score s_t(a) is the mean log-probability of gold answer a (one alias) after turn t; s_0 is scored after the
prompt alone. The belief is b_t = exp(s_t), in (0, 1]. Every gain basis is the difference of a potential of
the score, so gains telescope: their sum over a rollout is the potential after its last scored turn minus the
potential after the prompt.

Array names end in their dimensions: T1 scored moments of a rollout (the prompt, then each gain-bearing turn),
K aliases.
"""

from __future__ import annotations

import numpy as np

from algorithms.credit.config import LARGEST_REWARD, AliasRule, GainBasis, require_known

LOG_PROB_SLACK = 1e-4
"""A mean log-probability may exceed 0 by this much, from rounding, before it is refused."""


def reduce_aliases(scores_T1K, rule: AliasRule = "max", *, episode: object = None) -> np.ndarray:
    """Reduces the scores of K aliases to one score per moment: shape (T1, K) to (T1,), float64.

    Args:
        scores_T1K: mean log-probabilities, in nats.
        rule: `first`, the first alias (official code); `max`, the likeliest alias; `mean`, the mean of the
            aliases' scores.
        episode: named in errors.

    Raises:
        ValueError: an unknown rule, a wrong shape, or a score that is not finite (the message names turn and
            alias).
    """
    require_known("alias_rule", rule, AliasRule)
    scores_T1K = np.asarray(scores_T1K, dtype=np.float64)
    if scores_T1K.ndim != 2 or scores_T1K.shape[1] == 0:
        raise ValueError(
            f"{_episode(episode)}: scores must have shape (moments, aliases >= 1), got {scores_T1K.shape}"
        )
    usable_T1K = np.abs(scores_T1K) <= LARGEST_REWARD
    if not usable_T1K.all():
        turn, alias = np.argwhere(~usable_T1K)[0]
        raise ValueError(
            f"{_episode(episode)}, {_moment(turn)}: the score of alias {alias} is {scores_T1K[turn, alias]}; "
            f"a scorer must return finite log-probabilities (here within +-{LARGEST_REWARD:g})"
        )
    if rule == "first":
        return scores_T1K[:, 0].copy()
    return scores_T1K.max(axis=1) if rule == "max" else scores_T1K.mean(axis=1)


def beliefs_from_scores(scores_T1) -> np.ndarray:
    """Computes beliefs b_t = exp(s_t), float64."""
    return np.exp(np.asarray(scores_T1, dtype=np.float64))


def gains_from_scores(
    scores_T1, basis: GainBasis = "log_prob", gap_eps: float = 0.1, *, episode: object = None
) -> np.ndarray:
    """Computes the gain of each gain-bearing turn of one rollout: shape (n + 1,) to (n,), float64.

    Args:
        scores_T1: s_0, s_1, ..., s_n after the alias rule, in nats: the prompt, then each gain-bearing turn
            in time order. Leave out turns without a score (the final one, one that was cut off); the next
            gain bridges them.
        basis: `log_prob` (paper v2, Eq. 4): s_t - s_{t-1}. `prob` (paper v1): exp(s_t) - exp(s_{t-1}).
            `log_ratio` (TRACE): log((-s_{t-1} + gap_eps) / (-s_t + gap_eps)).
        gap_eps: offset of `log_ratio` in nats.
        episode: named in errors.

    Raises:
        ValueError: an unknown basis, no s_0, or a score that is not finite or is above 0 (a log-probability
            cannot be).
    """
    require_known("gain_basis", basis, GainBasis)
    scores_T1 = np.asarray(scores_T1, dtype=np.float64)
    if scores_T1.ndim != 1 or scores_T1.size == 0:
        raise ValueError(
            f"{_episode(episode)}: scores must be s_0, ..., s_n in one dimension, got shape {scores_T1.shape}"
        )
    bad_T1 = ~(np.abs(scores_T1) <= LARGEST_REWARD) | (scores_T1 > LOG_PROB_SLACK)
    if bad_T1.any():
        turn = int(np.argmax(bad_T1))
        raise ValueError(
            f"{_episode(episode)}, {_moment(turn)}: the score is {scores_T1[turn]}; "
            f"a mean log-probability is finite and at most 0 (and here at least -{LARGEST_REWARD:g})"
        )
    if basis == "log_prob":
        potential_T1 = scores_T1
    elif basis == "prob":
        potential_T1 = np.exp(scores_T1)
    else:
        potential_T1 = -np.log(np.maximum(-scores_T1, 0.0) + gap_eps)
    return np.diff(potential_T1)


def _episode(episode: object) -> str:
    return "a rollout" if episode is None else f"episode {episode}"


def _moment(index: int) -> str:
    return "after the prompt" if index == 0 else f"after gain-bearing turn {index - 1}"
