"""The discount of belief that was tried, by hand."""

from math import exp, sqrt

import numpy as np
import pytest

from algorithms.credit import find_preset, sample_group
from benchmarks.real_text.discounted import DISCOUNTED, discounted


@pytest.mark.parametrize("gamma", [1.0, 0.95, 0.5])
def test_a_search_that_tells_nothing_new_costs_a_share_of_belief(gamma):
    """Beliefs of the sample's rollouts: e^-2, e^-1.5, e^-0.2, answered; e^-2, e^-2.5, answered; e^-2,
    malformed. What is to come is gamma^n b_T - b_(t-1), n searches on; the third pays its belief back.
    """
    group = sample_group(DISCOUNTED.credit)
    first = [gamma**2 * exp(-0.2) - exp(-2), gamma * exp(-2.5) - exp(-2), -exp(-2)]
    second = [gamma * exp(-0.2) - exp(-1.5), 0.0]
    first, second = np.array(first) - np.mean(first), np.array(second) - np.mean(second)
    spread = sqrt((first @ first + second @ second) / 6) + 1e-6
    z = sqrt(1.5)  # outcomes 1, 0, -1 over their spread
    expected = np.array([first[0], second[0], 0, first[1], second[1], first[2]]) / spread
    np.testing.assert_allclose(discounted(group, gamma), expected + [z, z, z, 0, 0, -z], rtol=1e-5)


def test_it_is_a_preset_by_its_path():
    found = find_preset("benchmarks.real_text.discounted:DISCOUNTED")
    assert found.estimator is discounted and found.credit == find_preset("igpo_returns").credit
