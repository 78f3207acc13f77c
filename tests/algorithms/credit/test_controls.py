"""Gains that have lost what they say: what stays of `igpo_v1`."""

import numpy as np
import pytest

from algorithms.credit import advantages
from algorithms.credit.controls import constant_gains, shuffled_gains

OUTCOMES, GAINS = [1.0, 0.0, 0.0], [[0.1, 0.8], [0.3], []]


def test_constant_gains_are_the_mean_in_one_z_score():
    """Rewards 0.4, 0.4, 1, 0.4, 0, 0: mean 2.2 / 6, variance 0.7733 / 6."""
    mean, spread = 2.2 / 6, np.sqrt((3 * 0.4**2 + 1) / 6 - (2.2 / 6) ** 2) + 1e-6
    search, right, wrong = ((reward - mean) / spread for reward in (0.4, 1.0, 0.0))
    first, second, third = advantages(OUTCOMES, GAINS, constant_gains)
    assert first == pytest.approx([2 * search + right, search + right, right])
    assert second == pytest.approx([search + wrong, wrong])
    assert third == pytest.approx([wrong])


def test_shuffled_gains_are_the_same_gains():
    credited = advantages(OUTCOMES, GAINS, shuffled_gains)
    orders = [advantages(OUTCOMES, [[a, b], [c], []], "igpo_v1") for a, b, c in _orders(0.1, 0.8, 0.3)]
    assert any(np.allclose(np.concatenate(credited), np.concatenate(order)) for order in orders)
    again = advantages(OUTCOMES, GAINS, shuffled_gains)
    assert [one.tolist() for one in again] == [one.tolist() for one in credited]


def test_a_group_without_gains_has_its_outcomes():
    credited = advantages([1.0, 0.0], [[], []], constant_gains)
    expected = advantages([1.0, 0.0], [[], []], "igpo_v1")
    assert [one.tolist() for one in credited] == [one.tolist() for one in expected]


def _orders(a: float, b: float, c: float) -> list[tuple[float, float, float]]:
    return [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]
