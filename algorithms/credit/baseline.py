"""The outcome of every rollout, less its baseline (definitions: From rewards to advantages).

Array names end in their dimensions: N rollouts.
"""

from __future__ import annotations

import numpy as np

from algorithms.credit.batch import TurnBatch
from algorithms.credit.config import CreditConfig
from algorithms.credit.normalise import EPS, batch_outcome_statistics, leave_one_out, zscores


def normalised_outcome(
    batch: TurnBatch,
    config: CreditConfig,
    group_N: np.ndarray,
    num_groups: int,
    mean: float | None,
    std: float | None,
) -> np.ndarray:
    """Computes the normalised outcome o~ of every rollout, under the outcome baseline."""
    if config.outcome_baseline == "rloo":
        return leave_one_out(batch.outcome_N, group_N, num_groups)
    if config.outcome_baseline == "group_zscore":
        return zscores(batch.outcome_N, group_N, num_groups)
    if config.outcome_baseline == "belief":
        # In a group without belief, the mean of the others stands for it: an expectation of the outcome in
        # the outcome's units, too.
        others_N = leave_one_out(batch.outcome_N, group_N, num_groups)
        return np.where(
            batch.without_belief_N,
            others_N,
            batch.outcome_N - batch.last_belief("outcome_baseline='belief'"),
        )
    if mean is None and batch.num_rollouts:
        mean, std = batch_outcome_statistics(batch.outcome_N)
    if not std:
        return np.zeros(batch.num_rollouts)
    return (batch.outcome_N - mean) / (std + EPS)
