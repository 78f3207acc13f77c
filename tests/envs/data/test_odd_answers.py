"""Gold answers that a metric does not compare as one would think."""

import pytest

from envs.data.answer_metrics import answer_metrics
from envs.data.odd_answers import odd_answers
from envs.data.question import Question


def questions(*golds):
    return [Question(f"q{k}", "?", [gold]) for k, gold in enumerate(golds)]


def test_each_kind_is_counted_and_named():
    found = odd_answers(questions("!!!", "The The", "A", "Oslo", "Simon &amp; Garfunkel", "米拉", "AT&T; x"))
    assert [sentence.partition(": ")[0] for sentence in found] == [
        "1 gold answer is nothing but punctuation ('!!!' of q0)",
        "2 gold answers are nothing but articles ('The The' of q1, 'A' of q2)",
        "1 gold answer is written without blanks between words ('米拉' of q5)",
        "2 gold answers are written with HTML entities ('Simon &amp; Garfunkel' of q4, 'AT&T; x' of q6)",
    ]


def test_only_the_first_are_shown():
    (sentence,) = odd_answers(questions("?", "!", ".", ",", "Oslo"))
    assert sentence.startswith(
        "4 gold answers are nothing but punctuation ('?' of q0, '!' of q1, '.' of q2, ...): "
    )


@pytest.mark.parametrize("outcome", ["f1_chars", "em", "em_squad", "mine:reward"])
def test_an_outcome_that_does_not_count_words_is_no_concern(outcome):
    assert odd_answers(questions("米拉"), outcome) == []
    assert "outcome `f1_squad` takes each for one word" in odd_answers(questions("米拉"), "f1_squad")[0]


def test_what_the_sentences_say_is_so():
    for answer in ("!!!", "Chk Chk Chk", "?"):
        values = answer_metrics(answer, ["!!!"])
        assert values["f1_paper"] == values["f1_squad"] == 0.0
        assert values["em_paper"] == values["em_squad"] == float(answer != "Chk Chk Chk")
        assert values["f1_chars"] == float(answer == "!!!")
    for answer, em in (("The The", 1.0), ("an", 1.0), ("The Band", 0.0)):
        values = answer_metrics(answer, ["The The"])
        assert (values["f1_squad"], values["em_squad"]) == (0.0, em)
    assert answer_metrics("the the", ["The The"])["em_paper"] == 1.0
