"""Controls for gain credit: `igpo_v1` on gains that have lost what they say (docs/study_results.md).

All keep the outcomes and every setting of `igpo_v1`. `CONSTANT_GAINS` and `SHUFFLED_GAINS` keep the mean gain
of the group too, and lose the rest: what they earn beyond `grpo` is due to being paid for a search, whatever
it found. `CENTRED_GAINS` loses that mean, and keeps which search gained more.

    rllib train file conf/igpo.yaml --set preset=algorithms.credit.controls:CONSTANT_GAINS
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from algorithms.credit.from_lists import advantages
from algorithms.credit.group import Group
from algorithms.credit.presets import IGPO_V1


def _constant(group: Group) -> list[np.ndarray]:
    return _credited(group, lambda gains_B: np.full_like(gains_B, gains_B.mean()))


def _shuffled(group: Group) -> list[np.ndarray]:
    seed = zlib.crc32("\n".join(group.rollout_ids_N).encode())
    return _credited(group, np.random.default_rng(seed).permutation)


def _centred(group: Group) -> list[np.ndarray]:
    return _credited(group, lambda gains_B: gains_B - gains_B.mean())


def _credited(group: Group, changed: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    bears_M = np.isfinite(group.gains_M)
    gains_M = group.gains_M.copy()
    if bears_M.any():
        gains_M[bears_M] = changed(gains_M[bears_M])
    gains = [[None if np.isnan(gain) else gain for gain in own_T[:-1]] for own_T in group.split(gains_M)]
    rules = replace(IGPO_V1, credit=group.settings)
    return advantages(outcomes=group.outcomes_N.tolist(), gains=gains, preset=rules)


CONSTANT_GAINS = replace(
    IGPO_V1,
    name="constant_gains",
    summary="igpo_v1, every gain the group's mean",
    source="this project (docs/study_results.md)",
    estimator=_constant,
)
"""As igpo_v1, but every gain-bearing turn gains the group's mean, whatever it found."""

SHUFFLED_GAINS = replace(
    IGPO_V1,
    name="shuffled_gains",
    summary="igpo_v1, the group's gains dealt out again among its turns",
    source="this project (docs/study_results.md)",
    estimator=_shuffled,
)
"""As igpo_v1, but the group's gains are dealt out again at random among its gain-bearing turns; the rollouts'
names seed the draw."""

CENTRED_GAINS = replace(
    IGPO_V1,
    name="centred_gains",
    summary="igpo_v1, every gain less the group's mean",
    source="this project (docs/study_results.md)",
    estimator=_centred,
)
"""As igpo_v1, but the mean of the group's gains is taken off each: no bonus for searching is left, only which
search gained more than the others."""
