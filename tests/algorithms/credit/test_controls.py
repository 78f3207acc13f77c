"""Gains that have lost what they say: what stays of `igpo_v1`."""

import numpy as np
import pytest

from algorithms.credit import advantages, find_preset, get_preset
from algorithms.credit.controls import CENTRED_GAINS, CONSTANT_GAINS, SHUFFLED_GAINS

OUTCOMES, GAINS = [1.0, 0.0, 0.0], [[0.1, 0.8], [0.3], []]


def test_constant_gains_are_the_mean_in_one_z_score():
    """Rewards 0.4, 0.4, 1, 0.4, 0, 0: mean 2.2 / 6, variance 0.7733 / 6."""
    mean, spread = 2.2 / 6, np.sqrt((3 * 0.4**2 + 1) / 6 - (2.2 / 6) ** 2) + 1e-6
    search, right, wrong = ((reward - mean) / spread for reward in (0.4, 1.0, 0.0))
    first, second, third = advantages(OUTCOMES, GAINS, CONSTANT_GAINS)
    assert first == pytest.approx([2 * search + right, search + right, right])
    assert second == pytest.approx([search + wrong, wrong])
    assert third == pytest.approx([wrong])


def test_shuffled_gains_are_the_same_gains():
    credited = advantages(OUTCOMES, GAINS, SHUFFLED_GAINS)
    orders = [advantages(OUTCOMES, [[a, b], [c], []], "igpo_v1") for a, b, c in _orders(0.1, 0.8, 0.3)]
    assert any(np.allclose(np.concatenate(credited), np.concatenate(order)) for order in orders)
    again = advantages(OUTCOMES, GAINS, SHUFFLED_GAINS)
    assert [one.tolist() for one in again] == [one.tolist() for one in credited]


def test_centred_gains_pay_no_search_by_itself():
    """Gains 0.1, 0.8, 0.3 have the mean 0.4: rewards -0.3, 0.4, 1, -0.1, 0, 0, in one z-score."""
    first, second, third = advantages(OUTCOMES, GAINS, CENTRED_GAINS)
    rewards = np.array([-0.3, 0.4, 1.0, -0.1, 0.0, 0.0])
    a, b, right, c, wrong, _ = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    assert first == pytest.approx([a + b + right, b + right, right])
    assert second == pytest.approx([c + wrong, wrong])
    assert third == pytest.approx([wrong])


def test_constant_and_centred_gains_are_igpo_v1_s_together():
    """Where no gain differs from the mean, centring leaves nothing; where the mean is 0, nothing is lost."""
    same = advantages(OUTCOMES, [[0.4, 0.4], [0.4], []], CENTRED_GAINS)
    nothing = advantages(OUTCOMES, [[0.0, 0.0], [0.0], []], "igpo_v1")
    balanced = [[-0.3, 0.4], [-0.1], []]
    kept, whole = advantages(OUTCOMES, balanced, CENTRED_GAINS), advantages(OUTCOMES, balanced, "igpo_v1")
    for mine, theirs in zip([*same, *kept], [*nothing, *whole], strict=True):
        assert mine == pytest.approx(theirs)


def test_a_group_without_gains_has_its_outcomes():
    credited = advantages([1.0, 0.0], [[], []], CONSTANT_GAINS)
    expected = advantages([1.0, 0.0], [[], []], "igpo_v1")
    assert [one.tolist() for one in credited] == [one.tolist() for one in expected]


def test_they_stand_on_igpo_v1_s_settings_and_on_changes_of_them():
    named = find_preset("algorithms.credit.controls:CONSTANT_GAINS")
    assert named.credit == get_preset("igpo_v1").credit
    gains = [[0.4, 0.4], [0.4], []]  # what the constant makes of any gains with this mean
    found = advantages(OUTCOMES, GAINS, CONSTANT_GAINS, gamma=0.5)
    for mine, theirs in zip(found, advantages(OUTCOMES, gains, "igpo_v1", gamma=0.5), strict=True):
        assert mine == pytest.approx(theirs)


def _orders(a: float, b: float, c: float) -> list[tuple[float, float, float]]:
    return [(a, b, c), (a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a)]
