"""Estimators that a run should not be trained with: `preset: benchmarks.collapse.estimators:NAME`."""

from __future__ import annotations

import numpy as np

from algorithms.credit.group import Group


def negative_only(group: Group) -> np.ndarray:
    """Returns the outcome's z-score where it is below 0 and 0 elsewhere: what failed is pushed down, and
    nothing is pushed up.
    """
    return np.minimum(group.normalised_outcomes_N[group.rollout_M], 0.0)


def reversed_outcome(group: Group) -> np.ndarray:
    """Returns the outcome's z-score with its sign turned, as a reward of the wrong sign gives it."""
    return -group.normalised_outcomes_N[group.rollout_M]
