"""Which gold answers are scored."""

import pytest

from envs.data.question import eligible_aliases


@pytest.mark.parametrize(
    ("counts", "rule", "kept"),
    [
        ([40, 3, 32, 33], "max", [1, 2]),
        ([40, 3, 32, 33], "mean", [1, 2]),
        ([40, 3, 32, 33], "first", [0]),
        ([50, 35, 35], "max", [1]),
        ([5], "max", [0]),
        ([128, 129], "max", [0]),  # the shortest of long ones, up to 4 x 32 tokens
        ([129, 500], "max", []),
        ([129, 128], "mean", [1]),
        ([129], "mean", []),
        ([128, 3], "first", [0]),
        ([129, 3], "first", []),
    ],
)
def test_eligible_aliases(counts, rule, kept):
    assert eligible_aliases(counts, rule, max_answer_tokens=32).tolist() == kept


def test_unknown_rules_and_questions_without_answers_are_refused():
    with pytest.raises(ValueError, match="alias_rule='best' is unknown; known values: first, max, mean"):
        eligible_aliases([1], "best")
    with pytest.raises(ValueError, match="at least one gold answer"):
        eligible_aliases([])
