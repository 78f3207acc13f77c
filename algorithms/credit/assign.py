"""`assign_credit`: from rewards to one advantage per turn.

    A_i,t = ig_weight * w * D_i,t + outcome_weight * O_i,t

D is the sum of the normalised gains from turn t on, O the normalised outcome (definitions: From rewards to
advantages). They are computed separately. w is 1, or by `ig_fade` less where the group succeeds. The weights
act last; before the normalisation, a z-score would cancel them.

Array names end in their dimensions: N rollouts, M turns, B gain-bearing turns with a counted gain, P groups.
"""

from __future__ import annotations

import numpy as np

from algorithms.credit.baseline import normalised_outcome
from algorithms.credit.batch import Credit, GroupStatistics, TurnBatch
from algorithms.credit.config import CreditConfig
from algorithms.credit.normalise import (
    deviations,
    inverse_spread,
    populations,
    zscores,
)
from algorithms.credit.returns import belief_returns, discounted_gains, discounted_outcome, windowed_gains


def assign_credit(
    batch: TurnBatch,
    config: CreditConfig,
    *,
    batch_outcome_mean: float | None = None,
    batch_outcome_std: float | None = None,
) -> Credit:
    """Computes the advantages of every turn of `batch`, and the statistics of its groups.

    Args:
        batch: whole groups, so that every rollout of a prompt is in the same batch.
        config: the estimator; `get_preset(name).credit` for a published one.
        batch_outcome_mean: mean outcome of the whole training batch, where `batch` is a shard of it
            (`batch_outcome_statistics`). Only `outcome_baseline: batch_zscore` reads it; None computes it
            from `batch`.
        batch_outcome_std: the population standard deviation that belongs to it.

    Returns:
        Float64 arrays in the order of `batch`.

    Raises:
        ValueError: only one of the two batch statistics is given, or `outcome_baseline: belief` finds no
            belief in the batch.
    """
    if (batch_outcome_mean is None) != (batch_outcome_std is None):
        raise ValueError("batch_outcome_mean and batch_outcome_std belong together: give both or neither")
    group_P, group_N = np.unique(batch.group_N, return_inverse=True)
    counted_M = batch.gain_bearing_M & ~_gated(batch, config)[batch.rollout_M]

    outcome_N = normalised_outcome(
        batch, config, group_N, group_P.size, batch_outcome_mean, batch_outcome_std
    )
    outcome_alone_N = outcome_N
    if config.outcome_baseline == "belief":
        outcome_alone_N = zscores(batch.outcome_N, group_N, group_P.size)
    returns_M = None
    if config.normalisation == "joint":
        gains_M, outcome_N = _joint(batch, counted_M, group_N, group_P.size)
    elif config.normalisation == "returns":
        gains_M, returns_M = _centred_returns(batch, config, counted_M, group_N, group_P.size)
    else:
        gains_M = _normalise_gains(batch, config, counted_M, group_N)

    if returns_M is not None:
        later_M = returns_M
    elif config.window is None:
        later_M, terms_M = discounted_gains(batch, gains_M, config.gamma)
        if config.depth_rescale == "sqrt":
            later_M = later_M / np.sqrt(np.maximum(terms_M, 1))
    else:
        later_M = windowed_gains(
            batch, gains_M, config.gamma, config.window, outcome_N, config.window_outcome_scale
        )
    advantages_M = config.outcome_weight * discounted_outcome(batch, outcome_N, config.resolved_outcome_gamma)
    if config.ig_weight != 0.0:  # else bit-identical to the outcome alone
        if config.ig_fade == "solved":
            later_M = _unsolved(batch, group_N, group_P.size)[batch.rollout_M] * later_M
        advantages_M = config.ig_weight * later_M + advantages_M

    return Credit(
        gains_M=batch.gains_M,
        normalised_gains_M=np.where(batch.gain_bearing_M, gains_M, np.nan),
        normalised_outcome_N=outcome_N,
        advantages_M=advantages_M,
        clip_scale_M=_clip_scale(batch, gains_M, config.turn_clip_scale),
        groups=_group_statistics(batch, group_P, group_N, counted_M, outcome_alone_N, advantages_M),
    )


def _gated(batch: TurnBatch, config: CreditConfig) -> np.ndarray:
    """Marks the rollouts whose gains leave the statistics and count 0."""
    gated_N = np.zeros(batch.num_rollouts, dtype=np.bool_)
    if config.ig_gate == "valid_format":
        gated_N |= batch.malformed_N
    if config.drop_gains_at_turn_limit:
        gated_N |= batch.turn_limit_N
    return gated_N


def _unsolved(batch: TurnBatch, group_N: np.ndarray, num_groups: int) -> np.ndarray:
    """Computes 1 less the mean outcome of each rollout's group, between 0 and 1: [N]."""
    mean_P = populations(batch.outcome_N, group_N, num_groups).mean_S
    return 1.0 - np.clip(mean_P, 0.0, 1.0)[group_N]


def _joint(
    batch: TurnBatch, counted_M: np.ndarray, group_N: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Normalises the gains and outcomes of a group in one z-score (paper v1)."""
    counted = np.flatnonzero(counted_M)
    values = np.concatenate([batch.gains_M[counted], batch.outcome_N])
    members = np.concatenate([group_N[batch.rollout_M[counted]], group_N])
    normalised = zscores(values, members, num_groups)
    gains_M = np.zeros(counted_M.size)
    gains_M[counted] = normalised[: counted.size]
    return gains_M, normalised[counted.size :]


def _normalise_gains(
    batch: TurnBatch, config: CreditConfig, counted_M: np.ndarray, group_N: np.ndarray
) -> np.ndarray:
    """Computes the normalised gain g~ of every turn, 0 on turns without a counted gain."""
    counted = np.flatnonzero(counted_M)
    values_B = batch.gains_M[counted]
    population_B = group_N[batch.rollout_M[counted]]
    if config.normalisation == "turn_index":
        population_B = _labels(population_B, batch.role_M[counted], _turn_index(batch)[counted])
    if config.normalisation != "none":
        num_populations = int(population_B.max(initial=-1)) + 1
        values_B = zscores(
            values_B,
            population_B,
            num_populations,
            centre=config.normalisation != "scale_only",
            std_floor=config.std_floor,
        )
    gains_M = np.zeros(counted_M.size)
    gains_M[counted] = values_B
    return gains_M


def _centred_returns(
    batch: TurnBatch, config: CreditConfig, counted_M: np.ndarray, group_N: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Computes, in units of the group's spread, the reward of every turn and the belief still to come there,
    less the mean of this over the turns of the group with the same role and index.

    A rollout without an answer ends with belief 0: it has no chance to be right any more. A gated rollout
    takes no part, and all its turns get 0. Where belief is not read, all get 0.
    """
    if not config.reads_belief:  # it may not have been scored
        return np.zeros(counted_M.size), np.zeros(counted_M.size)
    gated_N = _gated(batch, config)
    paid_back_N = batch.unanswered_N & ~batch.without_belief_N & ~gated_N
    rewards_M, return_M = belief_returns(batch, counted_M, config.gamma, paid_back_N)
    part_M = ~gated_N[batch.rollout_M]
    group_M = group_N[batch.rollout_M]
    turn_M = _labels(group_M, batch.role_M, _turn_index(batch))
    num_turns = int(turn_M.max(initial=-1)) + 1
    absent_S = None
    if config.return_baseline == "group":
        absent_S = _absent(turn_M[part_M], batch.rollout_M[part_M], group_N, ~gated_N, num_turns)
    centred_M = np.zeros(return_M.size)
    centred_M[part_M] = deviations(return_M[part_M], turn_M[part_M], num_turns, zeros_S=absent_S)
    scale_M = inverse_spread(centred_M[part_M], group_M[part_M], num_groups, config.std_floor)[group_M]
    return rewards_M * scale_M, centred_M * scale_M


def _absent(
    turn_X: np.ndarray, rollout_X: np.ndarray, group_N: np.ndarray, part_N: np.ndarray, num_turns: int
) -> np.ndarray:
    """Counts, for each label of turns, the rollouts of its group that take part and have no such turn: [S].

    Args:
        turn_X: labels of turns, each of one group.
        rollout_X: the rollout of each turn.
        group_N: the group of each rollout.
        part_N: whether it takes part.
        num_turns: number of labels S.
    """
    turn_Y, rollout_Y = np.unique(np.stack([turn_X, rollout_X]), axis=1)
    group_S = np.zeros(num_turns, dtype=np.int64)
    group_S[turn_Y] = group_N[rollout_Y]
    members_P = np.bincount(group_N[part_N], minlength=int(group_N.max(initial=-1)) + 1)
    return members_P[group_S] - np.bincount(turn_Y, minlength=num_turns)


def _labels(*keys: np.ndarray) -> np.ndarray:
    """Labels equal combinations of integer keys by the same integer, from 0 on."""
    return np.unique(np.stack(keys), axis=1, return_inverse=True)[1].reshape(-1)


def _turn_index(batch: TurnBatch) -> np.ndarray:
    """Counts the gain-bearing turns of the same rollout and role before each turn.

    One rollout of five turns, its second turn without a gain:

        role          s  s  r  s  r
        gain-bearing  1  0  1  1  0
        index         0  1  0  1  1
    """
    order = np.lexsort((batch.role_M, batch.rollout_M))  # stable: time order within (rollout, role)
    rollout, role = batch.rollout_M[order], batch.role_M[order]
    starts = np.flatnonzero(
        np.r_[True, (rollout[1:] != rollout[:-1]) | (role[1:] != role[:-1])][: order.size]
    )
    before = np.cumsum(batch.gain_bearing_M[order]) - batch.gain_bearing_M[order]
    index_M = np.empty(order.size, dtype=np.int64)
    index_M[order] = before - np.repeat(before[starts], np.diff(np.r_[starts, order.size]))
    return index_M


def _clip_scale(batch: TurnBatch, gains_M: np.ndarray, amplitude: float) -> np.ndarray:
    """Computes 1 + amplitude (2 sigmoid(g~_t) - 1) on gain-bearing turns, 1 elsewhere (A2TGPO)."""
    # 2 sigmoid(x) - 1 = tanh(x / 2), which cannot overflow
    return np.where(batch.gain_bearing_M, 1.0 + amplitude * np.tanh(gains_M / 2.0), 1.0)


def _group_statistics(
    batch: TurnBatch,
    group_P: np.ndarray,
    group_N: np.ndarray,
    counted_M: np.ndarray,
    outcome_alone_N: np.ndarray,
    advantages_M: np.ndarray,
) -> GroupStatistics:
    """Computes the statistics of every group, over counted gains."""
    outcomes = populations(batch.outcome_N, group_N, group_P.size)
    group_M = group_N[batch.rollout_M]
    gains = populations(batch.gains_M[counted_M], group_M[counted_M], group_P.size)
    collapsed_outcome_P = np.bincount(group_N, weights=outcome_alone_N != 0, minlength=group_P.size) == 0
    collapsed_P = np.bincount(group_M, weights=advantages_M != 0, minlength=group_P.size) == 0
    return GroupStatistics(
        group_P=group_P,
        size_P=outcomes.count_S,
        outcome_mean_P=outcomes.mean_S,
        outcome_std_P=outcomes.std_S,
        gain_count_P=gains.count_S,
        gain_mean_P=gains.mean_S,
        gain_std_P=gains.std_S,
        collapsed_outcome_P=collapsed_outcome_P,
        collapsed_P=collapsed_P,
    )
