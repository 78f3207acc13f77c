"""`ig_fade`: gain weighs less where a group's answers are right."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.credit import CreditConfig, advantages, assign_credit, get_preset
from algorithms.credit.batch import TurnBatch
from algorithms.credit.normalise import EPS

GAINS = [[0.5], [0.1], [0.1]]
"""Returns of the first turns less their mean: 4/15, -2/15, -2/15 in probability."""


def advantages_of(outcomes, **changes):
    config = replace(
        CreditConfig(gain_basis="prob", normalisation="returns", std_floor=2.0, ig_fade="solved"), **changes
    )
    group = TurnBatch.from_lists([0] * 3, outcomes, GAINS, last_belief_N=np.array([0.6, 0.2, 0.2]))
    return assign_credit(group, config)


@pytest.mark.parametrize(
    "outcomes, weight",
    [
        ([0.0, 0.0, 0.0], 1.0),
        ([1.0, 0.0, 0.0], 2 / 3),
        ([0.5, 0.25, 0.0], 0.75),
        ([1.0, 1.0, 1.0], 0.0),
        ([-1.0, -1.0, 0.0], 1.0),  # no more than in full, whatever the penalties
        ([3.0, 3.0, 0.0], 0.0),
    ],
)
def test_gain_weighs_what_the_group_has_not_solved(outcomes, weight):
    found = advantages_of(outcomes, outcome_weight=0.0).advantages_M
    expected = weight * np.array([4 / 15, 0, -2 / 15, 0, -2 / 15, 0]) / (2.0 + EPS)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_where_all_are_right_the_outcome_alone_is_left_and_the_group_is_collapsed():
    solved = advantages_of([1.0, 1.0, 1.0])
    assert solved.advantages_M.tolist() == [0.0] * 6
    assert solved.groups.collapsed_P.tolist() == [True]
    failed = advantages_of([0.0, 0.0, 0.0])
    assert failed.groups.collapsed_P.tolist() == [False]


def test_each_group_has_a_weight_of_its_own():
    groups, outcomes = [0, 1, 0, 1], [0.0, 1.0, 0.0, 1.0]
    gains, last = [[0.5], [0.5], [0.1], [0.1]], [0.6, 0.6, 0.2, 0.2]
    rows = {"groups": groups, "last_beliefs": last}
    fading = advantages(outcomes, gains, "igpo_fading", **rows)
    shaped = advantages(outcomes, gains, "igpo_shaped", **rows)
    assert [row.tolist() for row in fading[::2]] == [row.tolist() for row in shaped[::2]]
    assert [row.tolist() for row in fading[1::2]] == [[0.0, 0.0], [0.0, 0.0]]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-0.5, 0.5)), min_size=2, max_size=6),
    st.sampled_from(["igpo", "igpo_v1", "dr_venus", "a2tgpo", "igpo_shaped", "trace"]),
)
def test_it_is_the_estimator_with_another_weight_of_gain(rollouts, name):
    outcomes = [outcome for outcome, _ in rollouts]
    group = TurnBatch.from_lists(
        [0] * len(rollouts),
        outcomes,
        [[gain] for _, gain in rollouts],
        last_belief_N=np.array([0.5 + gain for _, gain in rollouts]),
    )
    config = get_preset(name).credit
    lighter = replace(config, ig_weight=config.ig_weight * (1 - float(np.mean(outcomes))))
    found = assign_credit(group, replace(config, ig_fade="solved")).advantages_M
    np.testing.assert_allclose(found, assign_credit(group, lighter).advantages_M, rtol=1e-9, atol=1e-9)


def test_an_unknown_way_to_fade_is_refused():
    with pytest.raises(ValueError, match="ig_fade='agreed' is unknown; known values: off, solved"):
        CreditConfig(ig_fade="agreed")
