"""Belief as a potential: outcomes against the last belief, by hand and as identities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.credit import TurnBatch, advantages, assign_credit, get_preset

# b_0 = 0.1; then belief 0.3, and 0.2, 0.7
OUTCOMES, GAINS, LAST = [0.0, 1.0], [[0.2], [0.1, 0.5]], [0.3, 0.7]


def check(result, expected):
    for row, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-12, atol=1e-15)


def test_at_lambda_1_each_turn_gets_the_outcome_minus_the_belief_before_it():
    check(advantages(OUTCOMES, GAINS, "belief_critic", last_beliefs=LAST), [[-0.1, -0.3], [0.9, 0.8, 0.3]])


def test_at_lambda_0_each_turn_gets_what_it_changed():
    check(
        advantages(OUTCOMES, GAINS, "belief_critic", gamma=0.0, last_beliefs=LAST),
        [[0.2, -0.3], [0.1, 0.5, 0.3]],
    )


def test_in_between_later_changes_count_less():
    expected = [[0.2 - 0.5 * 0.3, -0.3], [0.1 + 0.5 * (0.5 + 0.5 * 0.3), 0.5 + 0.5 * 0.3, 0.3]]
    check(advantages(OUTCOMES, GAINS, "belief_critic", gamma=0.5, last_beliefs=LAST), expected)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8), st.floats(-1.0, 1.0))
def test_rewards_of_a_rollout_add_up_to_the_outcome_minus_the_first_belief(beliefs, outcome):
    (advantages_T,) = advantages([outcome], [np.diff(beliefs)], "belief_critic", last_beliefs=[beliefs[-1]])
    np.testing.assert_allclose(advantages_T, outcome - np.array(beliefs), atol=1e-12)


def test_unequal_outcomes_decide_what_collapses_under_the_outcome_alone():
    batch = TurnBatch.from_lists(
        [0, 0, 1, 1], [1, 1, 0, 1], [[0.5], [], [], []], last_belief_N=[0.7, 0.2, 0.2, 0.2]
    )
    groups = assign_credit(batch, get_preset("belief_critic").credit).groups
    assert groups.collapsed_outcome_P.tolist() == [True, False]
    assert groups.collapsed_P.tolist() == [False, False]


def test_a_belief_that_is_needed_and_missing_is_named():
    with pytest.raises(ValueError, match="outcome_baseline='belief' needs last_belief_N"):
        advantages(OUTCOMES, GAINS, "belief_critic")
    with pytest.raises(ValueError, match="rollout 1 has no belief score"):
        advantages(OUTCOMES, GAINS, "belief_critic", last_beliefs=[0.3, np.nan])
    with pytest.raises(ValueError, match="last_belief_N has shape"):
        advantages(OUTCOMES, GAINS, "belief_critic", last_beliefs=[0.3])
