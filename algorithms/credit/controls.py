"""Controls for gain credit: `igpo_v1` on gains that have lost what they say (docs/study_results.md).

Both keep the outcomes, the mean gain of the group and every rule of `igpo_v1`. What either earns beyond
`grpo` is not due to information: it is due to being paid for a search, whatever it found.

    preset: algorithms.credit.controls:constant_gains     # in an experiment, beside `gain_basis: prob`
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from algorithms.credit.from_lists import advantages
from algorithms.credit.group import Group


def constant_gains(group: Group) -> list[np.ndarray]:
    """Credits every gain-bearing turn as if it had gained the group's mean."""
    return _credited(group, lambda gains_B: np.full_like(gains_B, gains_B.mean()))


def shuffled_gains(group: Group) -> list[np.ndarray]:
    """Deals the group's gains out again among its gain-bearing turns; the rollouts' names seed the draw."""
    seed = zlib.crc32("\n".join(group.rollout_ids_N).encode())
    return _credited(group, np.random.default_rng(seed).permutation)


def _credited(group: Group, changed: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
    bears_M = np.isfinite(group.gains_M)
    gains_M = group.gains_M.copy()
    if bears_M.any():
        gains_M[bears_M] = changed(gains_M[bears_M])
    gains = [[None if np.isnan(gain) else gain for gain in own_T[:-1]] for own_T in group.split(gains_M)]
    return advantages(outcomes=group.outcomes_N.tolist(), gains=gains, preset="igpo_v1")
