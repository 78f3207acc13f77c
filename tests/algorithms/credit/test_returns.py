"""`normalisation: returns`: gains are summed before they are compared. Exact values by hand.

Array names end in their dimensions: T turns of a rollout.
"""

import math
from dataclasses import replace

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


def test_a_gated_rollout_takes_no_part():
    """The others are compared with one another as if it were not there, and it pays nothing back."""
    others = TurnBatch.from_lists([0, 0], OUTCOMES[:2], GAINS[:2], last_belief_N=np.array(LAST[:2]))
    expected = returns(others)
    for gate, mark in (
        ({"ig_gate": "valid_format"}, "malformed_N"),
        ({"drop_gains_at_turn_limit": True}, "turn_limit_N"),
    ):
        gated = batch(unanswered=(False, False, True), **{mark: [False, False, True]})
        found = returns(gated, **gate)
        for k in (0, 1):
            np.testing.assert_array_equal(found[k], expected[k])
        assert found[2].tolist() == [0.0, 0.0, 0.0]
        assert np.abs(returns(gated)[2]).min() > 0, "without the gate it pays"


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


def test_a_search_costs_a_share_of_what_is_believed_after_it():
    """At half the belief: 0.25 x 0.7 - 0.1, 0.5 x 0.2 - 0.1 and, without an answer, -0.1 at the first turn;
    0.5 x 0.7 - 0.2, 0 and -0.2 at the second; 0 and -0.5 at the third."""
    first, second, third = [0.075, 0.0, -0.1], [0.15, 0.0, -0.2], [0.0, -0.5]
    differences = [np.array(turn) - np.mean(turn) for turn in (first, second, third)]
    spread = math.sqrt(sum(float(d @ d) for d in differences) / 8)
    found = returns(batch(unanswered=(False, False, True)), gamma=0.5, outcome_gamma=1.0)
    for rollout, row_T in enumerate(found):
        places = (rollout, rollout, rollout and 1)  # the second rollout has no third turn
        expected_T = [differences[t][places[t]] for t in range(len(row_T))]
        np.testing.assert_allclose(row_T, np.array(expected_T) / (spread + EPS), rtol=1e-12, atol=1e-15)


def test_over_the_group_a_rollout_that_ended_before_has_nothing_to_come():
    """Both of the third turns are answers, and the second rollout ends at its second turn. Alone at a turn, a
    search is compared with having stopped."""
    found = returns(batch(), return_baseline="group")
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(returns(batch())))
    deep = TurnBatch.from_lists(
        [0, 0, 0, 0], [0.0] * 4, [[0.1, 0.4], [], [], []], last_belief_N=np.array([0.6, 0.1, 0.1, 0.1])
    )
    differences = np.array([0.375, 0.3, 0.0, -0.125, -0.125, -0.125])  # of 0.5, 0, 0, 0; of 0.4; of 0
    spread = math.sqrt(float(differences @ differences) / 6)
    found = np.concatenate(returns(deep, return_baseline="group"))
    np.testing.assert_allclose(found, differences / (spread + EPS), rtol=1e-12, atol=1e-15)
    assert returns(deep)[0][1] == 0.0, "over those that reach it, it is compared with itself"


def test_over_the_group_a_rollout_counts_once_at_a_turn():
    """A turn without a gain and the next one have one index. No rollout lacks it, so none counts as 0."""
    group = TurnBatch.from_lists(
        [0] * 4, [0.0] * 4, [[None, 0.3]] * 4, last_belief_N=np.full(4, 0.5), unanswered_N=np.zeros(4, bool)
    )
    credit = assign_credit(group, get_preset("igpo_shaped").credit)
    assert credit.advantages_M.tolist() == [0.0] * 12 and credit.groups.collapsed_P.tolist() == [True]


def test_a_gated_turn_has_no_gain_and_no_clip_scale_of_its_own():
    gated = batch(unanswered=(False, False, True), malformed_N=[False, False, True])
    config = CreditConfig(
        gain_basis="prob", normalisation="returns", gamma=0.5, ig_gate="valid_format", turn_clip_scale=0.3
    )
    credit = assign_credit(gated, config)
    assert credit.normalised_gains_M[5:7].tolist() == [0.0, 0.0]
    assert credit.clip_scale_M[5:].tolist() == [1.0, 1.0, 1.0]


def test_without_a_weight_belief_is_not_read():
    unscored = TurnBatch.from_lists(
        [0, 0], [1.0, 0.0], [[None], [None]], unanswered_N=np.array([False, True])
    )
    for preset in ("igpo_returns", "igpo_shaped", "igpo_fading"):
        config = replace(get_preset(preset).credit, ig_weight=0.0)
        grpo = assign_credit(unscored, get_preset("grpo").credit)
        assert assign_credit(unscored, config).advantages_M.tolist() == grpo.advantages_M.tolist()


def test_over_the_group_a_gated_rollout_is_no_member():
    """Two members are left: returns 0.6 and 0.1 at the first turn, and 0.5 at the second, 0 for the other."""
    group = TurnBatch.from_lists(
        [0, 0, 0],
        OUTCOMES,
        [[0.1, 0.5], [], [0.1, 0.3]],
        last_belief_N=np.array([0.7, 0.1, 0.5]),
        malformed_N=[False, False, True],
    )
    found = returns(group, return_baseline="group", ig_gate="valid_format")
    differences = np.array([0.3, 0.25, 0.0, -0.3])
    spread = math.sqrt(float(differences @ differences) / 4)
    np.testing.assert_allclose(
        np.concatenate(found[:2]), differences / (spread + EPS), rtol=1e-12, atol=1e-15
    )
    assert found[2].tolist() == [0.0] * 3


@settings(deadline=None)
@given(
    st.lists(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=5, max_size=5),
    st.sampled_from([1.0, 0.9, 0.0]),
    st.sampled_from(["reached", "group"]),
)
def test_equals_the_definition_in_plain_loops(beliefs, answers, gamma, baseline):
    """Beliefs b_0 .. b_n of each rollout; n searches and a last turn, which answers or does not."""
    answered = answers[: len(beliefs)]
    come = [
        [
            gamma ** (len(b) - 1 - t) * b[-1] * ok - b[t] if t < len(b) - 1 or not ok else 0.0
            for t in range(len(b))
        ]
        for b, ok in zip(beliefs, answered, strict=True)
    ]
    differences = []
    for row in come:
        for t, value in enumerate(row):
            there = [other[t] for other in come if len(other) > t]
            differences.append(value - sum(there) / (len(come) if baseline == "group" else len(there)))
    spread = math.sqrt(sum(d * d for d in differences) / len(differences))
    group = TurnBatch.from_lists(
        [0] * len(beliefs),
        [0.0] * len(beliefs),
        [list(np.diff(b)) for b in beliefs],
        last_belief_N=np.array([b[-1] for b in beliefs]),
        unanswered_N=~np.array(answered),
    )
    found = returns(group, gamma=gamma, outcome_gamma=1.0, return_baseline=baseline, std_floor=0.1)
    np.testing.assert_allclose(
        np.concatenate(found), np.array(differences) / (max(spread, 0.1) + EPS), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_gains_are_those_that_the_returns_discount(gamma):
    """In the units of the group: R_t = gamma R_(t+1) + gain of turn t, as the last gain is its own return."""
    config = CreditConfig(gain_basis="prob", normalisation="returns", gamma=gamma, std_floor=0.5)
    gains = assign_credit(batch(), config).normalised_gains_M
    shaped = [gamma * 0.2 - 0.1, gamma * 0.7 - 0.2]
    np.testing.assert_allclose(gains[:2], np.array(shaped) / (0.5 + EPS), rtol=1e-12)
    assert np.isnan(gains[2])


@pytest.mark.parametrize("preset", ["igpo_returns", "igpo_shaped", "igpo_fading"])
@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(2, 5))
def test_identical_rollouts_get_the_outcome_alone(preset, beliefs, size):
    gains = [list(np.diff(beliefs))] * size
    outcomes = [float(k % 2) for k in range(size)]
    group = TurnBatch.from_lists([0] * size, outcomes, gains, last_belief_N=np.full(size, beliefs[-1]))
    found = group.split(assign_credit(group, get_preset(preset).credit).advantages_M)
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


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="needs gain_basis='prob', not 'log_prob'"):
        CreditConfig(normalisation="returns")
    with pytest.raises(ValueError, match="sums the gains itself"):
        CreditConfig(gain_basis="prob", normalisation="returns", window=2)
    with pytest.raises(
        ValueError, match="return_baseline='group' has no effect with normalisation='separate'"
    ):
        CreditConfig(return_baseline="group")
    with pytest.raises(ValueError, match="return_baseline='all' is unknown; known values: reached, group"):
        CreditConfig(gain_basis="prob", normalisation="returns", return_baseline="all")
    with pytest.raises(ValueError, match="std_floor has no effect with normalisation='joint'"):
        CreditConfig(normalisation="joint", std_floor=0.1)
    with pytest.raises(ValueError, match="std_floor=-1"):
        CreditConfig(std_floor=-1)
    missing = TurnBatch.from_lists([0, 0], [0.0, 0.0], [[0.1], [0.2]], unanswered_N=np.array([True, False]))
    with pytest.raises(ValueError, match="normalisation='returns' needs last_belief_N"):
        assign_credit(missing, BY_RETURN)
