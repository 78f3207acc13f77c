"""Normalisation, gate, collapse, masks and bad input."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from algorithms.credit import (
    PRESETS,
    CreditConfig,
    TurnBatch,
    advantages,
    assign_credit,
    batch_outcome_statistics,
    get_preset,
)
from algorithms.credit.assign import _turn_index
from algorithms.credit.returns import windowed_gains

EPS = 1e-6
Z = 0.5 / (0.5 + EPS)


def test_a_hole_is_a_turn_without_a_gain():
    # Turn 1 of rollout 0 was cut off: it counts in exponents, not in the statistics nor in the number of
    # terms.
    batch = TurnBatch.from_lists([0, 0], [0.0, 0.0], [[1.0, None, 3.0], [2.0]])
    config = CreditConfig(normalisation="none", gamma=0.5, depth_rescale="sqrt")
    credit = assign_credit(batch, config)
    root = math.sqrt(2)
    np.testing.assert_allclose(
        credit.advantages_M, [(1 + 0.25 * 3) / root, 1.5, 3.0, 0.0, 2.0, 0.0], rtol=1e-15
    )
    np.testing.assert_array_equal(credit.gains_M, [1.0, np.nan, 3.0, np.nan, 2.0, np.nan])
    assert credit.groups.gain_count_P.tolist() == [3]
    assert credit.groups.gain_mean_P.tolist() == [2.0]


def test_trace_windows_run_over_gain_bearing_turns():
    batch = TurnBatch.from_lists([0], [0.0], [[1.0, None, 3.0]])
    credit = assign_credit(batch, get_preset("trace").credit)
    np.testing.assert_allclose(credit.advantages_M, [0.2 * (1 + 0.8 * 3) / 1.8, 0.0, 0.6, 0.0], rtol=1e-14)


def test_zero_gain_is_still_a_turn():
    with_zero = assign_credit(TurnBatch.from_lists([0, 0], [0, 1], [[0.0, 2.0], [4.0]]), CreditConfig())
    without = assign_credit(TurnBatch.from_lists([0, 0], [0, 1], [[None, 2.0], [4.0]]), CreditConfig())
    assert with_zero.groups.gain_count_P.tolist() == [3]
    std = math.sqrt(8 / 3) + EPS
    np.testing.assert_allclose(with_zero.normalised_gains_M[[0, 1, 3]], [-2 / std, 0.0, 2 / std], atol=1e-15)
    np.testing.assert_allclose(without.normalised_gains_M[[1, 3]], [-2 / 2, 2 / 2], rtol=1e-5)


def test_scale_only_subtracts_no_mean():
    credit = assign_credit(
        TurnBatch.from_lists([0, 0], [0, 0], [[1.0], [3.0]]), CreditConfig(normalisation="scale_only")
    )
    np.testing.assert_allclose(credit.normalised_gains_M[[0, 2]], [1 / (1 + EPS), 3 / (1 + EPS)], rtol=1e-15)


def test_turn_index_counts_gain_bearing_turns_per_role():
    # rollout 0: planner, searcher, planner, end; rollout 1: searcher, planner, planner, end
    batch = TurnBatch.from_lists(
        [0, 0], [0, 0], [[1.0, 10.0, 5.0], [30.0, 3.0, 9.0]], role_M=[0, 1, 0, 1, 1, 0, 0, 1]
    )
    credit = assign_credit(batch, CreditConfig(normalisation="turn_index"))
    # populations: planner first (1, 3), searcher first (10, 30), planner second (5, 9)
    z1, z10, z2 = 1 / (1 + EPS), 10 / (10 + EPS), 2 / (2 + EPS)
    np.testing.assert_allclose(
        credit.normalised_gains_M, [-z1, -z10, -z2, np.nan, z10, z1, z2, np.nan], rtol=1e-14
    )


def test_the_worked_examples_of_the_docstrings():
    turns = TurnBatch.from_lists([0], [0.0], [[1.0, None, 3.0, 4.0]], role_M=[0, 0, 1, 0, 1])
    assert _turn_index(turns).tolist() == [0, 1, 0, 1, 1]
    turns = TurnBatch.from_lists([0], [0.0], [[1.0, 2.0, 4.0]])
    windowed = windowed_gains(turns, np.array([1.0, 2.0, 4.0, 0.0]), 0.5, 2, np.ones(1), 2.0)
    np.testing.assert_allclose(windowed, [2 / 1.5, 4 / 1.5 + 0.5, 5.0, 0.0])


def test_turn_index_skips_holes():
    batch = TurnBatch.from_lists([0, 0], [0, 0], [[None, 1.0], [3.0]])
    credit = assign_credit(batch, CreditConfig(normalisation="turn_index"))
    np.testing.assert_allclose(credit.normalised_gains_M[[1, 3]], [-1 / (1 + EPS), 1 / (1 + EPS)], rtol=1e-14)


def test_turn_index_separates_prompts():
    batch = TurnBatch.from_lists([0, 1], [0, 0], [[1.0], [3.0]])
    credit = assign_credit(batch, CreditConfig(normalisation="turn_index"))
    assert credit.advantages_M.tolist() == [0.0] * 4


def test_gate_drops_the_gains_of_malformed_rollouts():
    batch = TurnBatch.from_lists([0, 0, 0], [0.0, 1.0, -1.0], [[1.0], [2.0], [50.0]], malformed_N=[0, 0, 1])
    gated = assign_credit(
        batch, CreditConfig(ig_gate="valid_format", outcome_weight=0.0, turn_clip_scale=0.3)
    )
    np.testing.assert_allclose(gated.advantages_M, [-Z, 0.0, Z, 0.0, 0.0, 0.0], rtol=1e-14)
    assert gated.normalised_gains_M[4] == 0.0
    assert gated.gains_M[4] == 50.0
    assert gated.clip_scale_M[4] == 1.0
    assert gated.groups.gain_count_P.tolist() == [2]
    open_gate = assign_credit(batch, CreditConfig(outcome_weight=0.0))
    assert open_gate.groups.gain_count_P.tolist() == [3]
    assert open_gate.advantages_M[4] > 1


def test_weights_act_after_normalisation():
    one = advantages([0, 1], [[1.0], [2.0, 6.0]], ig_weight=0.5, outcome_weight=2.0)
    ig = advantages([0, 1], [[1.0], [2.0, 6.0]], "ig_only")
    outcome = advantages([0, 1], [[1.0], [2.0, 6.0]], "grpo")
    for row, d, o in zip(one, ig, outcome, strict=True):
        np.testing.assert_allclose(row, 0.5 * d + 2 * o, rtol=1e-14)


@pytest.mark.parametrize("preset", PRESETS)
def test_degenerate_groups_give_exactly_zero(preset):
    third = 1 / 3  # a value whose mean of three rounds
    outcome_only = advantages([0.1] * 3, [[], [], []], preset, last_beliefs=[0.1] * 3)
    assert [row.tolist() for row in outcome_only] == [[0.0]] * 3
    if preset not in ("trace", "belief_critic"):  # raw gains are not normalised there
        rows = advantages([0.1] * 3, [[0.7], [0.7], [0.7]], preset, last_beliefs=[0.8] * 3)
        if preset != "igpo_v1":  # 0.1 and 0.7 differ within one population
            assert all((row == 0.0).all() for row in rows)
    single = advantages([third], [[]], preset, last_beliefs=[third])
    assert single[0].tolist() == [0.0]


@pytest.mark.parametrize("preset", PRESETS)
def test_one_rollout_alone(preset):
    (row,) = advantages([1.0], [[0.3, -0.2]], preset, last_beliefs=[0.6])
    assert row.shape == (3,)
    assert np.isfinite(row).all()
    if PRESETS[preset].credit.ig_weight == 0.0:
        assert row.tolist() == [0.0] * 3


def test_empty_batch():
    assert advantages([], []) == []
    assert (
        assign_credit(TurnBatch.from_lists([], [], []), get_preset("reinforce_pp").credit).groups.size_P.size
        == 0
    )


def test_groups_need_not_be_adjacent_nor_labelled_from_zero():
    mixed = advantages([0, 5, 1, 9], [[1.0], [2.0], [3.0], [1.0, 4.0]], groups=[7, -3, 7, -3])
    first = advantages([0, 1], [[1.0], [3.0]])
    second = advantages([5, 9], [[2.0], [1.0, 4.0]])
    for row, wanted in zip(mixed, [first[0], second[0], first[1], second[1]], strict=True):
        np.testing.assert_array_equal(row, wanted)


def test_group_statistics_and_collapse():
    batch = TurnBatch.from_lists(
        [9, 9, 4, 4, 5, 5, 6, 6],
        [0, 1, 1, 1, 1, 1, 1, 1],
        [[1.0], [2.0, 6.0], [0.5], [0.7], [0.5], [0.5 + 1e-4], [], [0.2]],
    )
    groups = assign_credit(batch, get_preset("igpo").credit).groups
    assert groups.group_P.tolist() == [4, 5, 6, 9]
    assert groups.size_P.tolist() == [2, 2, 2, 2]
    assert groups.outcome_mean_P.tolist() == [1.0, 1.0, 1.0, 0.5]
    assert groups.outcome_std_P.tolist() == [0.0, 0.0, 0.0, 0.5]
    assert groups.gain_count_P.tolist() == [2, 2, 1, 3]
    np.testing.assert_allclose(groups.gain_mean_P, [0.6, 0.50005, 0.2, 3.0], rtol=1e-14)
    np.testing.assert_allclose(groups.gain_std_P, [0.1, 5e-5, 0.0, math.sqrt(14 / 3)], rtol=1e-9)
    assert groups.collapsed_outcome_P.tolist() == [True, True, True, False]
    assert groups.collapsed_P.tolist() == [False, False, True, False]
    assert groups.collapsed_or_faint_P.tolist() == [False, True, True, False]


def test_collapse_under_the_outcome_alone_ignores_its_weight():
    batch = TurnBatch.from_lists([0, 0], [0, 1], [[1.0], [1.0]])
    groups = assign_credit(batch, get_preset("ig_only").credit).groups
    assert not groups.collapsed_outcome_P[0]
    assert groups.collapsed_P[0]


def test_a_group_without_gains_has_no_mean_gain():
    groups = assign_credit(TurnBatch.from_lists([0, 0], [0, 1], [[], []]), CreditConfig()).groups
    assert groups.gain_count_P.tolist() == [0]
    assert np.isnan(groups.gain_mean_P[0])
    assert groups.gain_std_P.tolist() == [0.0]


def test_shards_with_batch_statistics_equal_the_whole_batch():
    outcomes, gains, groups = [0.0, 1.0, 1.0, 4.0], [[1.0], [2.0, 6.0], [], [1.0]], [0, 0, 1, 1]
    config = get_preset("reinforce_pp").credit
    whole = assign_credit(TurnBatch.from_lists(groups, outcomes, gains), config).advantages_M
    mean, std = batch_outcome_statistics(outcomes)
    shards = [
        assign_credit(
            TurnBatch.from_lists(groups[part], outcomes[part], gains[part]),
            config,
            batch_outcome_mean=mean,
            batch_outcome_std=std,
        ).advantages_M
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_array_equal(np.concatenate(shards), whole)
    assert batch_outcome_statistics([0.1] * 3) == (0.1, 0.0)


def test_batch_statistics_come_in_pairs():
    with pytest.raises(ValueError, match="both or neither"):
        assign_credit(TurnBatch.from_lists([0], [1.0], [[]]), CreditConfig(), batch_outcome_mean=0.0)
    with pytest.raises(ValueError, match="empty"):
        batch_outcome_statistics([])


def test_bad_rewards_name_rollout_and_turn():
    with pytest.raises(ValueError, match="rollout q-1, turn 2: the gain is nan"):
        TurnBatch.from_lists([0, 0], [0, 1], [[1.0], [1.0, 2.0, math.nan]], rollout_ids_N=["q-0", "q-1"])
    with pytest.raises(ValueError, match="rollout 1 has an outcome that is not finite"):
        advantages([0.0, math.inf], [[], []])


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="got 1 groups, 1 outcomes and 2 lists of gains"):
        advantages([1.0], [[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"gains_M has shape \(4,\), expected \(5,\)"):
        TurnBatch(
            group_N=[0, 0],
            turns_N=[2, 3],
            outcome_N=[0, 1],
            gains_M=[1.0, 0, 2.0, 6.0],
            gain_bearing_M=[1, 0, 1, 1, 0],
        )
    with pytest.raises(ValueError, match="turns_N has shape"):
        TurnBatch(group_N=[0, 0], turns_N=[2], outcome_N=[0, 1], gains_M=[1.0, 0], gain_bearing_M=[1, 0])
    with pytest.raises(ValueError, match="rollout b has no turns"):
        TurnBatch(
            group_N=[0, 0],
            turns_N=[2, 0],
            outcome_N=[0, 1],
            gains_M=[1.0, 0],
            gain_bearing_M=[1, 0],
            rollout_ids_N=["a", "b"],
        )
    with pytest.raises(ValueError, match="gain on its final turn"):
        TurnBatch(group_N=[0], turns_N=[2], outcome_N=[0], gains_M=[1.0, 0], gain_bearing_M=[1, 1])
    with pytest.raises(ValueError, match="malformed_N"):
        TurnBatch.from_lists([0, 0], [0, 1], [[], []], malformed_N=[True])
    with pytest.raises(ValueError, match="rollout_ids_N"):
        TurnBatch.from_lists([0, 0], [0, 1], [[], []], rollout_ids_N=["a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain_basis": "logp"}, "known values: log_prob, prob, log_ratio"),
        (
            {"normalisation": "seperate"},
            "known values: separate, joint, turn_index, scale_only, returns, none",
        ),
        ({"depth_rescale": "log"}, "known values: none, sqrt"),
        ({"ig_gate": "on"}, "known values: off, valid_format"),
        ({"outcome_baseline": "critic"}, "known values: group_zscore, rloo, batch_zscore, belief"),
        ({"gamma": 1.5}, r"gamma=1.5 must lie in \[0, 1\]"),
        ({"outcome_gamma": -0.1}, r"outcome_gamma=-0.1 must lie in \[0, 1\]"),
        ({"gamma": math.nan}, "gamma=nan"),
        ({"ig_weight": math.inf}, "ig_weight=inf must be a finite number"),
        ({"gap_eps": 0.0}, "gap_eps=0.0"),
        ({"turn_clip_scale": 1.0}, "turn_clip_scale=1.0"),
        ({"window": 0}, "window=0"),
        ({"window": 3, "depth_rescale": "sqrt"}, "already averages"),
        ({"window_outcome_scale": 2.0}, "needs a window"),
        ({"normalisation": "joint", "outcome_baseline": "rloo"}, "cannot apply"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CreditConfig(), **change)


def test_import_costs_neither_torch_nor_ray():
    code = (
        "import sys, algorithms.credit; print(sorted({'torch', 'ray', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
