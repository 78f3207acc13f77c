"""Every preset by hand on one ragged group: T = [2, 3], gains [[a], [b, c]], outcomes [0, 1].

The gains are 1, 2 and 6: mean 3, population variance 14/3. A ragged group separates normalise-then-discount
from discount-then-normalise, and separate from joint normalisation.
"""

import math

import numpy as np
import pytest

from algorithms.credit import (
    PRESETS,
    CreditConfig,
    TurnBatch,
    advantages,
    assign_credit,
    get_preset,
)

EPS = 1e-6
OUTCOMES = [0.0, 1.0]
GAINS = [[1.0], [2.0, 6.0]]
S = math.sqrt(14 / 3) + EPS  # std of the gains 1, 2, 6
A, B, C = -2 / S, -1 / S, 3 / S  # their z-scores
OUT = 0.5 / (0.5 + EPS)  # z-score of outcome 1 against 0


def check(result, expected):
    assert [len(row) for row in result] == [len(row) for row in expected]
    for row, wanted in zip(result, expected, strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("preset", ["igpo", "igpo_official"])
def test_igpo(preset):
    check(advantages(OUTCOMES, GAINS, preset), [[A - OUT, -OUT], [B + C + OUT, C + OUT, OUT]])


def test_igpo_with_a_discount_normalises_first():
    check(
        advantages(OUTCOMES, GAINS, "igpo", gamma=0.5),
        [[A - OUT / 2, -OUT], [B + C / 2 + OUT / 4, C + OUT / 2, OUT]],
    )


def test_outcome_gamma_is_independent_of_gamma():
    check(
        advantages(OUTCOMES, GAINS, "igpo", gamma=0.5, outcome_gamma=1.0),
        [[A - OUT, -OUT], [B + C / 2 + OUT, C + OUT, OUT]],
    )


def test_gamma_zero_keeps_the_own_reward():
    check(advantages(OUTCOMES, GAINS, "igpo", gamma=0.0), [[A, -OUT], [B, C, OUT]])


def test_igpo_v1_is_one_zscore():
    mean = 2.0  # of 1, 2, 6, 0, 1
    std = math.sqrt((1 + 0 + 16 + 4 + 1) / 5) + EPS
    a, b, c, o1, o2 = ((x - mean) / std for x in (1.0, 2.0, 6.0, 0.0, 1.0))
    check(advantages(OUTCOMES, GAINS, "igpo_v1"), [[a + o1, o1], [b + c + o2, c + o2, o2]])


def test_ig_only():
    check(advantages(OUTCOMES, GAINS, "ig_only"), [[A, 0.0], [B + C, C, 0.0]])


def test_igpo_discounted():
    # gains 1 | 2, 6: mean 3; the gain of 6 reaches the turn before by half, the outcome every turn whole
    expected = [[-2 / S - OUT, -OUT], [(-1 + 0.5 * 3) / S + OUT, 3 / S + OUT, OUT]]
    check(advantages(OUTCOMES, GAINS, "igpo_discounted"), expected)


def test_a2tgpo():
    z = 0.5 / (0.5 + EPS)  # turn 1: gains 1 and 2; turn 2: one member, so 0
    check(
        advantages(OUTCOMES, GAINS, "a2tgpo"),
        [[-0.3 * z - OUT, -OUT], [0.3 * z / math.sqrt(2) + OUT, OUT, OUT]],
    )


def test_a2tgpo_clip_scale():
    batch = TurnBatch.from_lists([0, 0], OUTCOMES, GAINS)
    credit = assign_credit(batch, get_preset("a2tgpo").credit)
    z = 0.5 / (0.5 + EPS)
    up = 1 + 0.3 * (2 / (1 + math.exp(-z)) - 1)
    np.testing.assert_allclose(credit.clip_scale_M, [2 - up, 1.0, up, 1.0, 1.0], rtol=1e-14)
    assert (assign_credit(batch, CreditConfig()).clip_scale_M == 1.0).all()


def test_dr_venus():
    check(advantages(OUTCOMES, GAINS, "dr_venus"), [[1 / S - OUT, -OUT], [2 / S + OUT, 6 / S + OUT, OUT]])


def test_trace():
    # rollout 0, N = 1: the one window reaches the end; rollout 1, N = 2: both do, the first at distance 2
    c_01 = 1 - 2 * 0.8 * OUT
    c_11 = (2 + 0.8 * 6) / 1.8 + 2 * 0.8**2 * OUT
    c_12 = 6 + 2 * 0.8 * OUT
    check(
        advantages(OUTCOMES, GAINS, "trace"),
        [[-OUT + 0.2 * c_01, -OUT], [OUT + 0.2 * c_11, OUT + 0.2 * c_12, OUT]],
    )


def test_trace_window_that_does_not_reach_the_end_has_no_outcome():
    result = advantages([0.0, 1.0], [[], [1.0, 2.0, 3.0, 4.0]], "trace")
    weights = 1 + 0.8 + 0.64
    c = [
        (1 + 0.8 * 2 + 0.64 * 3) / weights,
        (2 + 0.8 * 3 + 0.64 * 4) / weights + 2 * 0.8**3 * OUT,
        (3 + 0.8 * 4) / 1.8 + 2 * 0.8**2 * OUT,
        4 + 2 * 0.8 * OUT,
    ]
    check(result, [[-OUT], [OUT + 0.2 * c_t for c_t in c] + [OUT]])


@pytest.mark.parametrize("preset", ["grpo", "gspo", "dapo"])
def test_grpo(preset):
    check(advantages(OUTCOMES, GAINS, preset), [[-OUT] * 2, [OUT] * 3])


def test_grpo_counts_each_rollout_once():
    # (0, 0, 1): mean 1/3, variance 2/9, whatever the numbers of turns
    std = math.sqrt(2) / 3 + EPS
    low, high = -1 / 3 / std, 2 / 3 / std
    check(advantages([0.0, 0.0, 1.0], [[], [1.0], [1.0] * 4], "grpo"), [[low], [low] * 2, [high] * 5])


def test_rloo():
    # others' means: (1 + 5) / 2, (0 + 5) / 2, (0 + 1) / 2
    check(advantages([0.0, 1.0, 5.0], [[], [1.0], [2.0, 6.0]], "rloo"), [[-3.0], [-1.5] * 2, [4.5] * 3])


def test_reinforce_pp_is_over_the_batch():
    # outcomes 0, 1 | 1, 4: mean 1.5, variance (2.25 + 0.25 + 0.25 + 6.25) / 4
    std = 1.5 + EPS
    check(
        advantages([0.0, 1.0, 1.0, 4.0], [[1.0], [2.0, 6.0], [], [1.0]], "reinforce_pp", groups=[0, 0, 1, 1]),
        [[-1.5 / std] * 2, [-0.5 / std] * 3, [-0.5 / std], [2.5 / std] * 2],
    )


def test_official_drops_gains_at_the_turn_limit():
    batch = TurnBatch.from_lists(
        [0, 0, 0], [0.0, 1.0, -2.0], [[1.0], [2.0], [9.0]], turn_limit_N=[False, False, True]
    )
    z = 0.5 / (0.5 + EPS)
    credit = assign_credit(batch, get_preset("igpo_official").credit)
    np.testing.assert_allclose(credit.normalised_gains_M, [-z, np.nan, z, np.nan, 0.0, np.nan], rtol=1e-12)
    o = (np.array([0.0, 1.0, -2.0]) + 1 / 3) / (math.sqrt(14) / 3 + EPS)
    np.testing.assert_allclose(credit.advantages_M, [o[0] - z, o[0], o[1] + z, o[1], o[2], o[2]], rtol=1e-12)
    assert credit.groups.gain_count_P.tolist() == [2]
    kept = assign_credit(batch, get_preset("igpo").credit)
    assert kept.groups.gain_count_P.tolist() == [3]


def test_preset_table():
    assert set(PRESETS) == {
        *("igpo", "igpo_v1", "igpo_official", "ig_only", "igpo_discounted", "a2tgpo", "dr_venus", "trace"),
        *("grpo", "rloo", "reinforce_pp", "gspo", "dapo", "belief_critic", "igpo_returns"),
        *("igpo_shaped", "igpo_fading"),
    }
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.source
    bases = {name: PRESETS[name].credit.gain_basis for name in PRESETS}
    assert {name for name in bases if bases[name] == "prob"} == {
        "igpo_v1",
        "a2tgpo",
        "belief_critic",
        "igpo_returns",
        "igpo_shaped",
        "igpo_fading",
    }
    assert {name for name in bases if bases[name] == "log_ratio"} == {"trace"}
    assert {name for name in PRESETS if PRESETS[name].belief_policy == "reference"} == {"trace"}
    assert {name for name in PRESETS if PRESETS[name].needs_several_updates} == {"gspo"}
    several = {name: PRESETS[name].num_minibatches for name in PRESETS if PRESETS[name].num_minibatches > 1}
    assert several == {"gspo": 4, "a2tgpo": 2}
    assert {name for name in PRESETS if PRESETS[name].dynamic_sampling} == {"dapo"}
    assert {name for name in PRESETS if not PRESETS[name].credit.reads_belief} == {
        "grpo",
        "rloo",
        "reinforce_pp",
        "gspo",
        "dapo",
    }
    assert PRESETS["igpo"].loss_changes == {}
    assert PRESETS["dapo"].loss_changes["clip_high"] == 0.28
    assert PRESETS["igpo_official"].env["alias_rule"] == "first"


def test_changes_are_what_differs_from_the_defaults():
    assert PRESETS["igpo"].changes == {}
    assert PRESETS["dapo"].changes == {
        "ig_weight": 0.0,
        "clip_high": 0.28,
        "loss_aggregation": "token_mean",
        "kl_coeff": 0.0,
        "dynamic_sampling": True,
    }
    official = PRESETS["igpo_official"].changes
    assert official["drop_gains_at_turn_limit"] is True and official["env_config"]["format_penalty"] == -2.0
    assert PRESETS["trace"].changes["belief_policy"] == "reference"
    assert PRESETS["gspo"].changes["num_minibatches"] == 4


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="preset 'ppo' is unknown; known presets: igpo, igpo_v1, .*dapo"):
        get_preset("ppo")
    with pytest.raises(ValueError, match="known presets"):
        advantages([1.0], [[]], "ppo")


def test_unknown_setting_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown credit setting 'discount'; known: gain_basis, .*gamma"):
        advantages([1.0], [[]], discount=0.5)
