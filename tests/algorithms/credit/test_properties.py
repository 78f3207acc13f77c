"""Properties that hold for every ragged batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.credit import PRESETS, CreditConfig, TurnBatch, advantages, assign_credit, get_preset
from algorithms.credit.config import LARGEST_REWARD
from algorithms.credit.gains import gains_from_scores, reduce_aliases
from algorithms.credit.normalise import batch_outcome_statistics

reward = st.integers(-64, 64).map(lambda x: x / 16)  # exact in float32
gain = st.one_of(reward, st.none())
rollout = st.tuples(st.integers(0, 3), reward, st.lists(gain, max_size=5))
rollouts = st.lists(rollout, min_size=1, max_size=12)
discount = st.sampled_from([0.0, 0.5, 0.9, 1.0])
normalisation = st.sampled_from(["separate", "joint", "turn_index", "scale_only", "none"])
preset_name = st.sampled_from(sorted(PRESETS))
quick = settings(max_examples=40, deadline=None)


def unzip(batch):
    groups, outcomes, gains = (list(column) for column in zip(*batch, strict=True))
    return groups, outcomes, gains


def reference(groups, outcomes, gains, config):
    """The definitions, as plain loops over one turn at a time. Covers group_zscore without window."""
    eps = 1e-6

    def normal(x, population, centre=True):
        if len(population) < 2 or max(population) == min(population):
            return 0.0
        return (x - centre * np.mean(population)) / (np.std(population) + eps)

    result = []
    for group, outcome, own in zip(groups, outcomes, gains, strict=True):
        members = [i for i, other in enumerate(groups) if other == group]
        all_gains = [g for i in members for g in gains[i] if g is not None]
        all_outcomes = [outcomes[i] for i in members]
        both = all_gains + all_outcomes
        joint = config.normalisation == "joint"
        o = normal(outcome, both if joint else all_outcomes)
        g = []
        for t, value in enumerate(own):
            if value is None:
                g.append(None)
            elif config.normalisation == "none":
                g.append(value)
            elif config.normalisation == "turn_index":
                index = sum(x is not None for x in own[:t])
                borne = [[x for x in gains[i] if x is not None] for i in members]
                g.append(normal(value, [row[index] for row in borne if len(row) > index]))
            else:
                g.append(
                    normal(value, both if joint else all_gains, centre=config.normalisation != "scale_only")
                )
        turns = len(own) + 1
        row = []
        for t in range(turns):
            terms = [config.gamma ** (k - t) * g[k] for k in range(t, turns - 1) if g[k] is not None]
            d = sum(terms) / (len(terms) ** 0.5 if config.depth_rescale == "sqrt" and terms else 1.0)
            row.append(
                config.ig_weight * d
                + config.outcome_weight * config.resolved_outcome_gamma ** (turns - 1 - t) * o
            )
        result.append(row)
    return result


@quick
@given(rollouts, normalisation, discount, discount, st.sampled_from(["none", "sqrt"]))
def test_equals_the_definition_in_plain_loops(batch, norm, gamma, outcome_gamma, depth):
    groups, outcomes, gains = unzip(batch)
    config = CreditConfig(
        normalisation=norm, gamma=gamma, outcome_gamma=outcome_gamma, depth_rescale=depth, ig_weight=0.7
    )
    turns = TurnBatch.from_lists(groups, outcomes, gains)
    result = turns.split(assign_credit(turns, config).advantages_M)
    for row, wanted in zip(result, reference(groups, outcomes, gains, config), strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-9, atol=1e-9)


@quick
@given(rollouts, preset_name, st.randoms(use_true_random=False))
def test_permuting_rollouts_permutes_advantages(batch, preset, random):
    groups, outcomes, gains = unzip(batch)
    order = list(range(len(batch)))
    random.shuffle(order)
    rows = {
        "outcomes": outcomes,
        "gains": gains,
        "groups": groups,
        "last_beliefs": [abs(outcome) / 4 for outcome in outcomes],
    }
    result = advantages(preset=preset, **rows)
    shuffled = advantages(
        preset=preset, **{name: [column[i] for i in order] for name, column in rows.items()}
    )
    for place, i in enumerate(order):
        np.testing.assert_allclose(shuffled[place], result[i], rtol=1e-9, atol=1e-9)


@quick
@given(rollouts, st.sampled_from(["separate", "turn_index", "scale_only", "none"]), discount)
def test_ig_weight_zero_is_bitwise_grpo(batch, norm, outcome_gamma):
    turns = TurnBatch.from_lists(*unzip(batch))
    grpo = replace(get_preset("grpo").credit, outcome_gamma=outcome_gamma)
    config = CreditConfig(normalisation=norm, ig_weight=0.0, gamma=0.3, outcome_gamma=outcome_gamma)
    left, right = assign_credit(turns, config).advantages_M, assign_credit(turns, grpo).advantages_M
    assert left.tobytes() == right.tobytes()


@quick
@given(rollouts, preset_name)
def test_everything_is_finite(batch, preset):
    turns = TurnBatch.from_lists(*unzip(batch), last_belief_N=np.full(len(batch), 0.5))
    credit = assign_credit(turns, get_preset(preset).credit)
    assert np.isfinite(credit.advantages_M).all()
    assert np.isfinite(credit.normalised_gains_M[turns.gain_bearing_M]).all()
    assert np.isfinite(credit.normalised_outcome_N).all()
    assert ((credit.clip_scale_M >= 0.7) & (credit.clip_scale_M <= 1.3)).all()


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), preset_name)
def test_finite_for_wild_rewards(values, preset):
    rows = advantages(values, [values] * len(values), preset, last_beliefs=[1e-9] * len(values))
    assert all(np.isfinite(row).all() for row in rows)


@quick
@given(rollouts, preset_name)
def test_float32_and_float64_agree(batch, preset):
    groups, outcomes, gains = unzip(batch)
    turns64 = TurnBatch.from_lists(groups, outcomes, gains, last_belief_N=np.full(len(batch), 0.5))
    turns32 = TurnBatch(
        group_N=turns64.group_N.astype(np.int32),
        turns_N=turns64.turns_N.astype(np.int32),
        outcome_N=turns64.outcome_N.astype(np.float32),
        gains_M=turns64.gains_M.astype(np.float32),
        gain_bearing_M=turns64.gain_bearing_M,
        last_belief_N=turns64.last_belief_N.astype(np.float32),
    )
    config = get_preset(preset).credit
    np.testing.assert_array_equal(
        assign_credit(turns32, config).advantages_M, assign_credit(turns64, config).advantages_M
    )


@quick
@given(rollouts)
def test_outcomes_count_once_per_rollout(batch):
    """More turns with the same outcomes change no normalised outcome."""
    groups, outcomes, gains = unzip(batch)
    config = get_preset("igpo").credit
    short = assign_credit(TurnBatch.from_lists(groups, outcomes, gains), config).normalised_outcome_N
    longer = [[*row, 0.25, 0.5] if i % 2 else row for i, row in enumerate(gains)]
    np.testing.assert_array_equal(
        short, assign_credit(TurnBatch.from_lists(groups, outcomes, longer), config).normalised_outcome_N
    )


@quick
@given(rollouts)
def test_adding_a_constant_to_outcomes_changes_no_preset_but_joint(batch):
    groups, outcomes, gains = unzip(batch)
    for preset in ("igpo", "a2tgpo", "dr_venus", "trace", "grpo", "rloo"):
        before = advantages(outcomes, gains, preset, groups=groups)
        after = advantages([o + 8.0 for o in outcomes], gains, preset, groups=groups)
        for row, wanted in zip(after, before, strict=True):
            np.testing.assert_allclose(row, wanted, rtol=1e-7, atol=1e-9)


@quick
@given(rollouts, preset_name)
def test_other_groups_do_not_matter(batch, preset):
    groups, outcomes, gains = unzip(batch)
    if get_preset(preset).credit.outcome_baseline == "batch_zscore":
        return
    rows = {"outcomes": outcomes, "gains": gains, "last_beliefs": [abs(outcome) / 4 for outcome in outcomes]}
    together = advantages(preset=preset, groups=groups, **rows)
    for group in set(groups):
        members = [i for i, other in enumerate(groups) if other == group]
        alone = advantages(
            preset=preset, **{name: [column[i] for i in members] for name, column in rows.items()}
        )
        for i, row in zip(members, alone, strict=True):
            np.testing.assert_allclose(row, together[i], rtol=1e-9, atol=1e-12)


@quick
@given(rollouts)
def test_normalised_gains_have_zero_mean_and_at_most_unit_spread(batch):
    turns = TurnBatch.from_lists(*unzip(batch))
    credit = assign_credit(turns, get_preset("igpo").credit)
    for group in np.unique(turns.group_N):
        own = credit.normalised_gains_M[turns.gain_bearing_M & (turns.group_N[turns.rollout_M] == group)]
        if own.size:
            assert own.mean() == pytest.approx(0.0, abs=1e-9)
            assert own.std() <= 1.0 + 1e-12


huge = st.floats(-LARGEST_REWARD, LARGEST_REWARD) | st.sampled_from([LARGEST_REWARD, -LARGEST_REWARD, 0.0])
too_large = st.floats(min_value=LARGEST_REWARD, exclude_min=True, allow_infinity=False).flatmap(
    lambda x: st.sampled_from([x, -x])
)


@quick
@given(
    st.lists(
        st.tuples(st.integers(0, 2), huge, st.lists(st.one_of(huge, st.none()), max_size=4)),
        min_size=1,
        max_size=9,
    ),
    preset_name,
    st.none() | normalisation,
    huge,
)
def test_huge_rewards_have_finite_credit_without_a_warning(batch, preset, norm, weight):
    groups, outcomes, gains = unzip(batch)
    turns = TurnBatch.from_lists(groups, outcomes, gains, last_belief_N=np.full(len(groups), 0.5))
    config = replace(get_preset(preset).credit, ig_weight=weight)
    if norm and config.outcome_baseline == "group_zscore":  # None: the preset's own, `returns` among them
        floor = 0.0 if norm in ("joint", "none") else config.std_floor
        config = replace(config, normalisation=norm, std_floor=floor, return_baseline="reached")
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        credit = assign_credit(turns, config)
    assert np.isfinite(credit.advantages_M).all() and np.isfinite(credit.normalised_outcome_N).all()
    assert np.isfinite(credit.normalised_gains_M[turns.gain_bearing_M]).all()
    assert np.isfinite(credit.groups.outcome_std_P).all() and np.isfinite(credit.groups.gain_std_P).all()


@quick
@given(too_large)
def test_rewards_beyond_the_bound_are_refused_in_one_sentence(value):
    bound = "rewards must lie within +-1e+30: scale them"
    for call, message in (
        (lambda: advantages([1.0, value], [[0.5], []]), f"rollout 1 has the outcome {value}; {bound}"),
        (
            lambda: advantages([1.0, 0.0], [[0.5, value], []]),
            f"rollout 0, turn 1: the gain is {value}; {bound}",
        ),
        (lambda: batch_outcome_statistics([0.0, value]), f"an outcome of the batch is {value}; {bound}"),
        (
            lambda: CreditConfig(ig_weight=value),
            f"ig_weight={value!r} must be a finite number within +-1e+30",
        ),
    ):
        with np.errstate(all="raise"), pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message
    score = -abs(value)
    with (
        np.errstate(all="raise"),
        pytest.raises(ValueError, match="after gain-bearing turn 0: the score is "),
    ):
        gains_from_scores([-1.0, score])
    with (
        np.errstate(all="raise"),
        pytest.raises(ValueError, match="after gain-bearing turn 0: the score of alias 1 is "),
    ):
        reduce_aliases([[-1.0, -1.0], [-1.0, score]], "mean")


def test_a_last_belief_is_a_belief():
    with pytest.raises(ValueError, match=r"rollout 1 has a last belief that is not in \[0, 1\]"):
        advantages([1.0, 0.0], [[0.1], [0.2]], preset="belief_critic", last_beliefs=[0.5, 1e308])
