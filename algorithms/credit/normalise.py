"""Means, standard deviations and z-scores of many populations at once.

Standard deviations are of the population (ddof 0). A population of one member, or with max = min, has a
standard deviation of exactly 0 and is normalised to exactly 0. The test compares the members, because
rounding in the mean would otherwise leave equal rewards with a tiny spread that a division blows up.

Array names end in their dimensions: X members of all populations, S populations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from algorithms.credit.config import BEYOND, LARGEST_REWARD

EPS = 1e-6
"""Added to every standard deviation before dividing."""


class Populations(NamedTuple):
    """Count, mean (NaN if empty) and population standard deviation (0 if empty) of each population S."""

    count_S: np.ndarray
    mean_S: np.ndarray
    std_S: np.ndarray


def populations(values_X: np.ndarray, population_X: np.ndarray, num_populations: int) -> Populations:
    """Computes the statistics of each population.

    Args:
        values_X: the values.
        population_X: the population of each value, from 0 to `num_populations` - 1.
        num_populations: number of populations; some may be empty.
    """
    count_S = np.bincount(population_X, minlength=num_populations)
    low_S = np.full(num_populations, np.inf)
    high_S = np.full(num_populations, -np.inf)
    np.minimum.at(low_S, population_X, values_X)
    np.maximum.at(high_S, population_X, values_X)
    divisor_S = np.maximum(count_S, 1)
    mean_S = np.bincount(population_X, weights=values_X, minlength=num_populations) / divisor_S
    deviation_X = values_X - mean_S[population_X]
    variance_S = np.bincount(population_X, weights=deviation_X**2, minlength=num_populations) / divisor_S
    varies_S = high_S > low_S
    mean_S = np.where(varies_S, mean_S, low_S)
    return Populations(
        count_S, np.where(count_S > 0, mean_S, np.nan), np.where(varies_S, np.sqrt(variance_S), 0.0)
    )


def zscores(
    values_X: np.ndarray,
    population_X: np.ndarray,
    num_populations: int,
    *,
    centre: bool = True,
    std_floor: float = 0.0,
) -> np.ndarray:
    """Computes (x - mean) / (max(std, floor) + eps) within each population, exactly 0 where std is 0.

    `centre=False` subtracts no mean.
    """
    stats = populations(values_X, population_X, num_populations)
    std_X = stats.std_S[population_X]
    divisor_X = np.maximum(std_X, std_floor) + EPS
    numerator_X = values_X - stats.mean_S[population_X] if centre else values_X
    return np.where(std_X > 0, numerator_X / divisor_X, 0.0)


def deviations(
    values_X: np.ndarray,
    population_X: np.ndarray,
    num_populations: int,
    *,
    zeros_S: np.ndarray | None = None,
) -> np.ndarray:
    """Subtracts from each x the mean of its population; exactly 0 where all are equal.

    `zeros_S` is the number of further members of each population, whose value is 0; None: there are none.
    """
    stats = populations(values_X, population_X, num_populations)
    mean_S = stats.mean_S
    if zeros_S is not None:
        mean_S = mean_S * (stats.count_S / np.maximum(stats.count_S + zeros_S, 1))
    return values_X - mean_S[population_X]


def inverse_spread(
    deviations_X: np.ndarray, pool_X: np.ndarray, num_pools: int, std_floor: float = 0.0
) -> np.ndarray:
    """Computes 1 / (max(root mean square of the deviations, floor) + eps) of each pool: shape [S].

    Exactly 0 where every deviation is 0.
    """
    count_S = np.bincount(pool_X, minlength=num_pools)
    square_S = np.bincount(pool_X, weights=deviations_X**2, minlength=num_pools)
    spread_S = np.sqrt(square_S / np.maximum(count_S, 1))
    return np.where(spread_S > 0, 1.0 / (np.maximum(spread_S, std_floor) + EPS), 0.0)


def leave_one_out(values_X: np.ndarray, population_X: np.ndarray, num_populations: int) -> np.ndarray:
    """Subtracts from each x the mean of the others in its population; exactly 0 where all are equal."""
    stats = populations(values_X, population_X, num_populations)
    count_X = stats.count_S[population_X]
    others_X = np.maximum(count_X - 1, 1)
    # x - (sum - x) / (n - 1) = (x - mean) n / (n - 1)
    return np.where(
        stats.std_S[population_X] > 0, (values_X - stats.mean_S[population_X]) * count_X / others_X, 0.0
    )


def batch_outcome_statistics(outcome_N) -> tuple[float, float]:
    """Computes mean and population standard deviation of all outcomes of a batch, each rollout once.

    Compute them before a batch is cut into shards, and pass them to `assign_credit` with each shard.

    Raises:
        ValueError: the batch is empty, or an outcome is beyond `LARGEST_REWARD`.
    """
    outcome_N = np.asarray(outcome_N, dtype=np.float64)
    if outcome_N.size == 0:
        raise ValueError("outcome_N is empty: a batch has at least one rollout")
    largest = outcome_N[np.argmax(np.abs(outcome_N))]
    if abs(largest) > LARGEST_REWARD:
        raise ValueError(f"an outcome of the batch is {largest}; {BEYOND}")
    stats = populations(outcome_N, np.zeros(outcome_N.size, dtype=np.int64), 1)
    return float(stats.mean_S[0]), float(stats.std_S[0])
