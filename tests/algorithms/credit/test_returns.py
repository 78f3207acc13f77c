"""`normalisation: returns`: gains are summed before they are compared. Exact values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.credit import CreditConfig, TurnBatch, advantages, assign_credit, get_preset

EPS = 1e-6
OUTCOMES = [1.0, 0.0, 0.0]
GAINS = [[0.1, 0.5], [0.1], [0.1, 0.3]]
LAST = [0.7, 0.2, 0.5]  # belief before the first turn is 0.1
FIRST = SECOND = [7 / 30, -8 / 30, 1 / 30]  # returns 0.6 0.1 0.4 and 0.5 0 0.3, less their means 11/30, 8/30
BY_RETURN = get_preset("igpo_returns").credit


def batch(unanswered=(False, False, False), **more) -> TurnBatch:
    return TurnBatch.from_lists(
        [0, 0, 0], OUTCOMES, GAINS, last_belief_N=np.array(LAST), unanswered_N=np.array(unanswered), **more
    )


def returns(batch: TurnBatch, **changes) -> list[np.ndarray]:
    """The part of the advantages that belief pays."""
    config = {"gain_basis": "prob", "normalisation": "returns", "outcome_weight": 0.0} | changes
    return batch.split(assign_credit(batch, CreditConfig(**config)).advantages_M)


def test_a_search_is_compared_with_what_others_do_at_the_same_turn():
    spread = math.sqrt(
        2 * sum(x * x for x in FIRST) / 8
    )  # 8 turns; the third ones are answers and differ by 0
    found = returns(batch())
    for rollout, turns in enumerate(found):
        expected = [FIRST[rollout], SECOND[rollout], 0.0][: len(turns)]
        np.testing.assert_allclose(turns, np.array(expected) / (spread + EPS), rtol=1e-12, atol=1e-15)


def test_a_rollout_without_an_answer_pays_its_belief_back():
    found = returns(batch(unanswered=(False, False, True)))
    first, second, third = [0.6, 0.1, -0.1], [0.5, 0.0, -0.2], [0.0, -0.5]
    differences = [np.array(turn) - np.mean(turn) for turn in (first, second, third)]
    spread = math.sqrt(sum(float(d @ d) for d in differences) / 8)
    np.testing.assert_allclose(
        found[2],
        [differences[0][2] / spread, differences[1][2] / spread, differences[2][1] / spread],
        rtol=1e-5,
    )


def test_the_preset_adds_the_normalised_outcome():
    alone = advantages(OUTCOMES, GAINS, "grpo")
    belief = returns(batch(), std_floor=0.05)
    for both, outcome, gain in zip(
        batch().split(assign_credit(batch(), BY_RETURN).advantages_M), alone, belief, strict=True
    ):
        np.testing.assert_allclose(both, outcome + gain, rtol=1e-12)


def test_a_second_search_that_gains_less_than_the_first_is_not_taxed():
    """Where the first page says nearly all, z-scored gains punish the search that confirms it."""
    gains = [[0.8, 0.01], [0.8]]
    taxed = advantages([1.0, 0.0], gains, "igpo", gain_basis="prob", outcome_weight=0.0)
    assert taxed[0][1] < -0.5
    two = TurnBatch.from_lists([0, 0], [1.0, 0.0], gains, last_belief_N=np.array([0.91, 0.9]))
    paid = returns(two, std_floor=0.05)
    assert 0 < paid[0][1] == pytest.approx(0.005 / (0.05 + EPS)) and paid[1][1] == -paid[0][1]


def test_noise_is_not_made_as_large_as_a_signal():
    gains = [[0.500], [0.501]]
    two = TurnBatch.from_lists([0, 0], [1.0, 1.0], gains, last_belief_N=np.array([0.6, 0.601]))
    floored = returns(two, std_floor=0.05)
    np.testing.assert_allclose(floored[1], [0.0005 / 0.05, 0.0], rtol=1e-4)
    assert returns(two)[1][0] > 1.4, "without a floor, 0.001 is worth as much as any difference"
    scored = advantages([1.0, 1.0], gains, "igpo", gain_basis="prob", std_floor=0.05)
    np.testing.assert_allclose(scored[1], [0.0005 / 0.05, 0.0], rtol=1e-4)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(2, 5))
def test_identical_rollouts_get_the_outcome_alone(beliefs, size):
    gains = [list(np.diff(beliefs))] * size
    outcomes = [float(k % 2) for k in range(size)]
    group = TurnBatch.from_lists([0] * size, outcomes, gains, last_belief_N=np.full(size, beliefs[-1]))
    found = group.split(assign_credit(group, BY_RETURN).advantages_M)
    for mine, grpo in zip(found, advantages(outcomes, gains, "grpo"), strict=True):
        np.testing.assert_allclose(mine, grpo, atol=1e-9)


def test_a_question_without_belief_gets_the_outcome_alone():
    group = TurnBatch.from_lists(
        [0, 0],
        [1.0, 0.0],
        [[None], [None]],
        last_belief_N=np.array([np.nan, np.nan]),
        without_belief_N=np.array([True, True]),
        unanswered_N=np.array([False, True]),
    )
    found = assign_credit(group, BY_RETURN).advantages_M
    np.testing.assert_array_equal(found, np.concatenate(advantages([1.0, 0.0], [[None], [None]], "grpo")))


@pytest.mark.parametrize(
    ("setting", "marked"),
    [({"ig_gate": "valid_format"}, "malformed_N"), ({"drop_gains_at_turn_limit": True}, "turn_limit_N")],
)
def test_a_gated_rollout_pays_nothing_back_and_leaves_the_means_of_the_others(setting, marked):
    last = (False, False, True)
    gated = returns(batch(last, **{marked: np.array(last)}), **setting)
    two = TurnBatch.from_lists([0, 0], OUTCOMES[:2], GAINS[:2], last_belief_N=np.array(LAST[:2]))
    for mine, without in zip(gated, [*returns(two), np.zeros(3)], strict=True):
        np.testing.assert_array_equal(mine, without)
    assert gated[0][0] == pytest.approx(
        0.25 / (math.sqrt(4 * 0.25**2 / 5) + EPS)
    )  # 0.6 0.1 and 0.5 0, of 5 turns


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="needs gain_basis='prob', not 'log_prob'"):
        CreditConfig(normalisation="returns")
    with pytest.raises(ValueError, match="sums the gains itself"):
        CreditConfig(gain_basis="prob", normalisation="returns", window=2)
    with pytest.raises(ValueError, match="std_floor has no effect with normalisation='joint'"):
        CreditConfig(normalisation="joint", std_floor=0.1)
    with pytest.raises(ValueError, match="std_floor=-1"):
        CreditConfig(std_floor=-1)
    missing = TurnBatch.from_lists([0, 0], [0.0, 0.0], [[0.1], [0.2]], unanswered_N=np.array([True, False]))
    with pytest.raises(ValueError, match="normalisation='returns' needs last_belief_N"):
        assign_credit(missing, BY_RETURN)
