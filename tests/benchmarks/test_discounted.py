"""The discount of belief that was tried, by hand."""

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest

from algorithms.credit import find_preset, sample_group
from benchmarks.real_text.discounted import DISCOUNTED, discounted, discounted_outcome


@pytest.mark.parametrize("floor", [0.05, 3.0])
@pytest.mark.parametrize("gamma", [1.0, 0.95, 0.5])
def test_a_search_that_tells_nothing_new_costs_a_share_of_belief(gamma, floor):
    """Beliefs of the sample's rollouts: e^-2, e^-1.5, e^-0.2, answered; e^-2, e^-2.5, answered; e^-2,
    malformed. What is to come is gamma^n b_T - b_(t-1), n searches on; the third pays its belief back.
    """
    group = sample_group(replace(DISCOUNTED.credit, std_floor=floor))
    first = [gamma**2 * exp(-0.2) - exp(-2), gamma * exp(-2.5) - exp(-2), -exp(-2)]
    second = [gamma * exp(-0.2) - exp(-1.5), 0.0]
    first, second = np.array(first) - np.mean(first), np.array(second) - np.mean(second)
    spread = sqrt((first @ first + second @ second) / 6)
    z = sqrt(1.5)  # outcomes 1, 0, -1 over their spread
    expected = np.array([first[0], second[0], 0, first[1], second[1], first[2]]) / (max(spread, floor) + 1e-6)
    np.testing.assert_allclose(discounted(group, gamma), expected + [z, z, z, 0, 0, -z], rtol=1e-5)


def test_the_outcome_is_discounted_by_each_search():
    """Two searches and 1, one search and 0, none and -1: 0.25, 0 and -1 at 0.5, whose mean is -0.25 and
    spread 0.5401.
    """
    expected = np.array([0.5, 0.5, 0.5, 0.25, 0.25, -0.75]) / sqrt((0.25 + 0.0625 + 0.5625) / 3)
    np.testing.assert_allclose(discounted_outcome(sample_group(), 0.5), expected)


def test_equal_outcomes_teach_the_outcome_nothing():
    group = replace(sample_group(), outcomes_N=np.zeros(3))
    assert discounted_outcome(group).tolist() == [0.0] * 6


@pytest.mark.parametrize(
    ("name", "estimator", "base"),
    [("DISCOUNTED", discounted, "igpo_returns"), ("DISCOUNTED_OUTCOME", discounted_outcome, "grpo")],
)
def test_they_are_presets_by_their_path(name, estimator, base):
    found = find_preset(f"benchmarks.real_text.discounted:{name}")
    assert found.estimator is estimator
    assert replace(found.credit, std_floor=0.0) == replace(find_preset(base).credit, std_floor=0.0)
