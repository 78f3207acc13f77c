"""From scored rollouts to the batch that is credited, by hand."""

import numpy as np
import pytest

from algorithms.credit import (
    EPS,
    PRESETS,
    CreditConfig,
    ScoredRollout,
    assign_credit,
    get_preset,
    turn_batch,
    without_removed,
)

IGPO, GRPO = CreditConfig(), get_preset("grpo").credit


def rollout(name="a", group="g", scores=((-2.0, -3.0), (-1.0, -4.0), None), **changes) -> ScoredRollout:
    """s_0, then one entry per turn; the last turn bears no gain."""
    initial, *turns = scores
    values = {
        "id": name,
        "group": group,
        "outcome": 1.0,
        "initial_scores_K": initial,
        "scores_T1K": turns,
        "bears_gain_T": [True] * (len(turns) - 1) + [False],
        "agents_T": ["s"] * len(turns),
    }
    return ScoredRollout(**{**values, **changes})


@pytest.mark.parametrize(
    "rule, before, after", [("max", -2.0, -1.0), ("first", -2.0, -1.0), ("mean", -2.5, -2.5)]
)
def test_the_alias_rule_acts_before_gains_and_beliefs(rule, before, after):
    batch = turn_batch([rollout()], IGPO, rule)
    np.testing.assert_allclose(batch.turns.gains_M, [after - before, np.nan])
    np.testing.assert_allclose(batch.belief_before_M, np.exp([before, after]))
    np.testing.assert_allclose(batch.belief_after_M, [np.exp(after), np.nan])
    np.testing.assert_allclose(batch.turns.last_belief_N, np.exp([after]))


def test_labels_of_groups_and_roles():
    names = (("a", "x", ["s", "r"]), ("b", "y", ["r", "s"]), ("c", "x", ["s", "s"]))
    turns = turn_batch([rollout(n, g, agents_T=agents) for n, g, agents in names], IGPO).turns
    assert turns.group_N.tolist() == [0, 1, 0] and turns.turns_N.tolist() == [2, 2, 2]
    assert turns.role_M.tolist() == [1, 0, 0, 1, 1, 1] and turns.rollout_ids_N == ["a", "b", "c"]


def test_how_a_rollout_ended():
    turns = turn_batch([rollout(), rollout("b", malformed=True), rollout("c", turn_limit=True)], IGPO).turns
    assert turns.malformed_N.tolist() == [False, True, False]
    assert turns.turn_limit_N.tolist() == [False, False, True]


def test_a_turn_without_gain_is_bridged():
    cut_off = rollout(scores=((-2.0,), (-9.0,), (-0.5,), None), bears_gain_T=[False, True, False])
    batch = turn_batch([cut_off], IGPO)
    np.testing.assert_allclose(batch.turns.gains_M, [np.nan, 1.5, np.nan])
    np.testing.assert_allclose(batch.belief_before_M, np.exp([-2.0, -2.0, -0.5]))


@pytest.mark.parametrize(
    "scores, where", [((None, None, None), "the prompt"), (((-1.0,), None, None), "a completed turn")]
)
def test_missing_scores_are_refused_where_they_are_read(scores, where):
    with pytest.raises(ValueError, match=f"rollout a: {where} has no belief score"):
        turn_batch([rollout(scores=scores)], IGPO)
    assert np.isnan(turn_batch([rollout(scores=scores)], GRPO).turns.gains_M).all()


def test_no_rollouts():
    batch = turn_batch([], IGPO)
    assert batch.turns.num_rollouts == 0 and batch.belief_before_M.size == 0


@pytest.mark.parametrize("value", [False, None])
def test_a_removed_setting_that_was_not_set_is_dropped(value):
    assert without_removed({"gamma": 0.5, "truncated_pays_back": value}) == {"gamma": 0.5}
    assert without_removed({"gamma": 0.5}) == {"gamma": 0.5}


def test_a_removed_setting_that_was_set_is_refused():
    with pytest.raises(
        ValueError, match="^`truncated_pays_back: true` was removed during the development of version 0.1.0$"
    ):
        without_removed({"truncated_pays_back": True})


def without_belief(name, group, outcome):
    return rollout(name, group, (None, None, None, None), outcome=outcome, without_belief=True)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_question_without_belief_has_the_outcome_s_part_alone(preset):
    """Three turns each; the group with belief beside it keeps its numbers."""
    config = get_preset(preset).credit
    usual = [rollout("a"), rollout("b", scores=((-2.0, -3.0), (-2.5, -2.0), None), outcome=0.5)]
    bare = [without_belief(name, "bare", outcome) for name, outcome in (("c", 1.0), ("d", 0.0), ("e", 0.0))]
    turns = turn_batch([*usual, *bare], config).turns
    assert turns.gain_bearing_M.tolist() == [True, False, True, False] + [False] * 9
    mean, std = 0.4, 0.3  # as of a larger batch, for reinforce_pp
    credit = assign_credit(turns, config, batch_outcome_mean=mean, batch_outcome_std=std)
    baseline = {"batch_zscore": (1 - mean) / (std + EPS), "rloo": 1.0, "belief": 1.0}
    z = (1 - 1 / 3) / (np.sqrt(2) / 3 + EPS)
    outcome = config.outcome_weight * baseline.get(config.outcome_baseline, z)
    expected = [outcome * config.resolved_outcome_gamma**left for left in (2, 1, 0)]
    np.testing.assert_allclose(credit.advantages_M[4:7], expected, rtol=1e-12)
    assert np.isnan(credit.normalised_gains_M[4:]).all() and (credit.clip_scale_M[4:] == 1.0).all()
    alone = assign_credit(
        turn_batch(usual, config).turns, config, batch_outcome_mean=mean, batch_outcome_std=std
    )
    np.testing.assert_array_equal(credit.advantages_M[:4], alone.advantages_M)
    assert credit.groups.gain_count_P.tolist() == [2, 0]
