"""Which training questions a filter drops, and for which reasons."""

import json

import pytest

from envs.data.question import Question
from envs.data.question_filter import QuestionFilter, filter_questions
from envs.errors import InputError


def test_the_filter_says_what_it_drops(tmp_path):
    questions = [Question(str(k), f"q{k}", ["a"], hops=hops) for k, hops in enumerate([1, 2, 3, None, 2])]
    kept, dropped = filter_questions(questions, QuestionFilter(min_hops=2, max_hops=2))
    assert [question.id for question in kept] == ["1", "4"]
    assert dropped == {"fewer than 2 hops": 1, "more than 2 hops": 1, "hops unknown": 1}
    scores = tmp_path / "scores.json"
    episodes = [("q0", 1.0), ("q0", 1.0), ("q1", 1.0), ("q1", 0.0), ("q2", 0.0)]
    scores.write_text(json.dumps({"episodes": [{"question": text, "em_squad": em} for text, em in episodes]}))
    kept, dropped = filter_questions(
        questions, QuestionFilter(scores=str(scores), min_score=0.1, max_score=0.9)
    )
    assert [question.id for question in kept] == ["1"]
    assert dropped == {"scored above 0.9": 1, "scored below 0.1": 1, "not scored": 2}
    scores.write_text("[]")
    with pytest.raises(InputError, match="is not what `rllib evaluate --out` writes"):
        filter_questions(questions, QuestionFilter(scores=str(scores)))
    with pytest.raises(ValueError, match="need `scores`"):
        QuestionFilter(min_score=0.5)
