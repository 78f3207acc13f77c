"""The price of a search on the outcome alone, by hand."""

from dataclasses import replace
from math import sqrt

import numpy as np

from algorithms.credit import find_preset, sample_group
from benchmarks.real_text.discounted_outcome import discounted_outcome


def test_the_outcome_is_discounted_by_each_search():
    """Two searches and 1, one search and 0, none and -1: 0.25, 0 and -1 at 0.5, whose mean is -0.25 and
    spread 0.5401.
    """
    expected = np.array([0.5, 0.5, 0.5, 0.25, 0.25, -0.75]) / sqrt((0.25 + 0.0625 + 0.5625) / 3)
    np.testing.assert_allclose(discounted_outcome(sample_group(), 0.5), expected)


def test_equal_outcomes_teach_the_outcome_nothing():
    group = replace(sample_group(), outcomes_N=np.zeros(3))
    assert discounted_outcome(group).tolist() == [0.0] * 6


def test_it_is_a_preset_by_its_path():
    found = find_preset("benchmarks.real_text.discounted_outcome:DISCOUNTED_OUTCOME")
    assert found.estimator is discounted_outcome
    assert found.credit == find_preset("grpo").credit
