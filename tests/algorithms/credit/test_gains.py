"""Gain bases and alias rules."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.credit import beliefs_from_scores, gains_from_scores, reduce_aliases

scores = st.lists(st.floats(-30.0, 0.0), min_size=1, max_size=12)
quick = settings(max_examples=40, deadline=None)


def test_the_three_bases_by_hand():
    scores_T1 = [math.log(0.1), math.log(0.4), math.log(0.2)]
    np.testing.assert_allclose(gains_from_scores(scores_T1), [math.log(4), -math.log(2)], rtol=1e-15)
    np.testing.assert_allclose(gains_from_scores(scores_T1, "prob"), [0.3, -0.2], rtol=1e-14)
    np.testing.assert_allclose(beliefs_from_scores(scores_T1), [0.1, 0.4, 0.2], rtol=1e-15)
    gains = gains_from_scores([-0.9, -0.4, -1.9], "log_ratio", gap_eps=0.1)
    np.testing.assert_allclose(gains, [math.log(1.0 / 0.5), math.log(0.5 / 2.0)], rtol=1e-14)
    assert gains_from_scores([-1.0]).shape == (0,)


@quick
@given(scores)
def test_gains_telescope(scores_T1):
    last, first = scores_T1[-1], scores_T1[0]
    assert gains_from_scores(scores_T1).sum() == pytest.approx(last - first, abs=1e-12)
    assert gains_from_scores(scores_T1, "prob").sum() == pytest.approx(
        math.exp(last) - math.exp(first), abs=1e-12
    )
    ratio = math.log((-first + 0.1) / (-last + 0.1))
    assert gains_from_scores(scores_T1, "log_ratio").sum() == pytest.approx(ratio, abs=1e-12)


@quick
@given(scores, st.integers(0, 11), st.floats(-30.0, 0.0))
def test_a_gain_does_not_depend_on_later_scores(scores_T1, cut, other):
    cut = min(cut, len(scores_T1) - 1)
    edited = scores_T1[: cut + 1] + [other] * (len(scores_T1) - cut - 1)
    np.testing.assert_array_equal(gains_from_scores(scores_T1)[:cut], gains_from_scores(edited)[:cut])


def test_alias_rules():
    scores_T1K = [[-3.0, -1.0], [-2.0, -4.0]]
    assert reduce_aliases(scores_T1K, "first").tolist() == [-3.0, -2.0]
    assert reduce_aliases(scores_T1K, "max").tolist() == [-1.0, -2.0]
    assert reduce_aliases(scores_T1K, "mean").tolist() == [-2.0, -3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.5])
def test_impossible_scores_name_episode_and_turn(bad):
    with pytest.raises(ValueError, match="episode q7-3, after gain-bearing turn 1: the score is"):
        gains_from_scores([-1.0, -2.0, bad], episode="q7-3")
    with pytest.raises(ValueError, match="episode q7-3, after the prompt"):
        gains_from_scores([bad], episode="q7-3")


def test_impossible_alias_scores_name_episode_turn_and_alias():
    with pytest.raises(ValueError, match="episode e, after gain-bearing turn 0: the score of alias 1 is nan"):
        reduce_aliases([[-1.0, -1.0], [-1.0, math.nan]], episode="e")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match="gain_basis='logprob' is unknown; known values: log_prob, prob, log_ratio"
    ):
        gains_from_scores([-1.0], "logprob")
    with pytest.raises(ValueError, match="alias_rule='best' is unknown; known values: first, max, mean"):
        reduce_aliases([[-1.0]], "best")


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="s_0"):
        gains_from_scores([])
    with pytest.raises(ValueError, match="aliases"):
        reduce_aliases([-1.0, -2.0])
