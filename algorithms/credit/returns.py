"""Discounted sums over the turns of ragged rollouts.

`discounted_gains` goes back from the last turns, one turn of every rollout that is long enough in each step.
So the work is one operation per turn, and nothing is padded. Within a rollout, the order of additions is that
of a plain reverse loop.
"""

from __future__ import annotations

import numpy as np

from algorithms.credit.batch import TurnBatch


def discounted_gains(batch: TurnBatch, gains_M: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums gamma^(k-t) g_k over gain-bearing k >= t, for every turn t. Exponents count turns.

    `gains_M` is 0 on turns that bear no gain.

    Returns:
        The sums and the numbers of their terms, both [M]; 0 where no gain follows.
    """
    terms_M = batch.gain_bearing_M.astype(np.int64)
    total_M = gains_M.copy()
    order_N = np.argsort(-batch.turns_N, kind="stable")
    depth_N = batch.turns_N[order_N]
    last_N = batch.last_N[order_N]
    alive = batch.num_rollouts
    for back in range(1, int(depth_N[0]) if alive else 0):
        alive = int(np.searchsorted(-depth_N, -back, side="left"))  # rollouts with more than `back` turns
        here = last_N[:alive] - back
        total_M[here] += gamma * total_M[here + 1]
        terms_M[here] += terms_M[here + 1]
    return total_M, terms_M


def belief_returns(
    batch: TurnBatch, counted_M: np.ndarray, gamma: float, paid_back_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the belief still to come at every turn t, R_t = gamma^n b_end - b_{t-1}.

    n is the number of gain-bearing turns from t on, and b_end the belief b_T after the last of them, 0 where
    the rollout pays it back. This is the return of rewards gamma b_k - b_{k-1}, discounted by gamma each, and
    of -b_T at the end of a rollout that pays back: potential-based shaping with belief as the potential (Ng,
    Harada and Russell, 1999).

    Args:
        batch: the rollouts; their gains are differences of belief.
        counted_M: whether the turn's gain counts; the others are 0.
        gamma: discount of belief by gain-bearing turn.
        paid_back_N: whether the rollout's b_end is 0.

    Returns:
        The rewards gamma b_t - b_{t-1}, 0 on turns that are not counted, and R_t; both [M].

    Raises:
        ValueError: any rollout lacks its last belief, where one pays back or gamma is below 1.
    """
    gains_M = np.where(counted_M, batch.gains_M, 0.0)
    to_come_M, left_M = discounted_gains(batch, gains_M, 1.0)  # b_T - b_{t-1}
    last_N = np.zeros(batch.num_rollouts)
    if gamma < 1.0 or paid_back_N.any():
        last_N = np.where(batch.without_belief_N, 0.0, batch.last_belief("normalisation='returns'"))
    last_M = last_N[batch.rollout_M]
    end_M = np.where(paid_back_N, 0.0, last_N)[batch.rollout_M]
    after_M = last_M - to_come_M + gains_M
    shaped_M = np.where(counted_M, gains_M - (1.0 - gamma) * after_M, 0.0)
    return shaped_M, to_come_M - (last_M - gamma**left_M * end_M)


def windowed_gains(
    batch: TurnBatch,
    gains_M: np.ndarray,
    gamma: float,
    window: int,
    outcome_N: np.ndarray,
    outcome_scale: float,
) -> np.ndarray:
    """Computes TRACE's c_t on gain-bearing turns, 0 on others.

    c_t = sum_{j<K} gamma^j g_{t+j} / sum_{j<K} gamma^j over the gain-bearing turns t = 1..N of a rollout,
    both sums cut at N, plus outcome_scale * gamma^(N-t+1) * outcome where the window reaches N (t + K - 1 >=
    N). `window` is K; t counts gain-bearing turns.

    N = 3 gains 1, 2, 4 with K = 2, gamma 0.5, outcome 1 and scale 2:

        c_1 = (1 + 0.5 * 2) / 1.5 = 1.33
        c_2 = (2 + 0.5 * 4) / 1.5 + 2 * 0.5^2 = 3.17
        c_3 = 4 + 2 * 0.5 = 5
    """
    bearing = np.flatnonzero(batch.gain_bearing_M)
    rollout_B = batch.rollout_M[bearing]
    gains_B = gains_M[bearing]
    count_N = np.bincount(rollout_B, minlength=batch.num_rollouts)
    first_N = np.cumsum(count_N) - count_N
    left_B = (first_N + count_N)[rollout_B] - np.arange(bearing.size)  # N - t + 1
    weighted_B = np.zeros(bearing.size)
    weights_B = np.zeros(bearing.size)
    for ahead in range(min(window, int(count_N.max(initial=0)))):
        inside = np.flatnonzero(left_B > ahead)
        weighted_B[inside] += gamma**ahead * gains_B[inside + ahead]
        weights_B[inside] += gamma**ahead
    credit_B = weighted_B / weights_B
    credit_B += np.where(left_B <= window, outcome_scale * gamma**left_B * outcome_N[rollout_B], 0.0)
    credit_M = np.zeros(gains_M.size)
    credit_M[bearing] = credit_B
    return credit_M


def discounted_outcome(batch: TurnBatch, outcome_N: np.ndarray, gamma: float) -> np.ndarray:
    """Computes gamma^(T_i - t) * outcome at every turn, with 0^0 = 1."""
    remaining_M = batch.last_N[batch.rollout_M] - np.arange(batch.rollout_M.size)
    return np.float64(gamma) ** remaining_M * outcome_N[batch.rollout_M]
