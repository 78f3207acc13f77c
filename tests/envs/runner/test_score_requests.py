"""Each pair of context and answer is scored once, for all that ask."""

import numpy as np
import pytest

from envs.engine.base import Scored
from envs.runner.score_requests import ScoreRequests
from envs.search.protocols.base import ScoringSuffix

YES, NO = (ScoringSuffix([9, answer], np.array([False, True])) for answer in (1, 2))


class Engine:
    def __init__(self):
        self.requests = []

    def submit(self, request):
        self.requests.append(request)


def test_equal_pairs_are_one_request_while_it_is_open_and_a_known_score_afterwards():
    engine, scores = Engine(), ScoreRequests()
    assert scores.ask(engine, "a/0", [5, 6], [YES, NO], "first") == [None, None]
    assert scores.ask(engine, "b/0", [5, 6], [NO], "second") == [None]
    assert [(asked.request_id, asked.context_ids) for asked in engine.requests] == [
        ("a/0/0", [5, 6]),
        ("a/0/1", [5, 6]),
    ]
    assert scores.take(Scored("a/0/1", -0.5)) == [("first", 1), ("second", 0)]
    assert scores.ask(engine, "c/0", [5, 6], [YES, NO], "third") == [None, -0.5]
    assert len(engine.requests) == 2
    assert scores.take(Scored("a/0/0", 0.0)) == [("first", 0), ("third", 0)]
    assert scores.ask(engine, "d/0", [5, 6], [YES], "fourth") == [0.0]


def test_another_context_or_answer_is_another_request():
    engine, scores = Engine(), ScoreRequests()
    for name, context, suffix in (("a", [5], YES), ("b", [5], NO), ("c", [5, 6], YES)):
        assert scores.ask(engine, name, context, [suffix], name) == [None]
    assert [asked.request_id for asked in engine.requests] == ["a/0", "b/0", "c/0"]


@pytest.mark.parametrize("score", [float("nan"), -float("inf")])
def test_a_score_that_is_not_finite_is_refused(score):
    engine, scores = Engine(), ScoreRequests()
    scores.ask(engine, "a", [5], [YES], "first")
    with pytest.raises(RuntimeError, match="the score a/0 is .*: the policy's weights are broken"):
        scores.take(Scored("a/0", score))
