"""Answer metrics: exact values by hand in both dialects, and what must hold for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data.answer_metrics import (
    answer_metrics,
    em_paper,
    em_squad,
    f1_chars,
    f1_paper,
    f1_squad,
    normalise_paper,
    normalise_squad,
    outcome_function,
)
from envs.errors import InputError

texts = st.text(max_size=40) | st.lists(
    st.sampled_from(
        ["the", "a", "yes", "no", "noanswer", "U.S.", "Oneida", "Limited", "1851", "-", "'s", "ﬁn", "İ"]
    ),
    max_size=6,
).map(" ".join)


def test_normalisation_differs_between_the_dialects():
    assert normalise_paper("The  U.S.-led\tMan's") == "the u s led man s"
    assert normalise_squad("The  U.S.-led\tMan's") == "usled mans"
    assert normalise_squad("An a the another") == "another"
    # Punctuation goes before articles: "the-" becomes "the", and only ASCII punctuation goes.
    assert normalise_squad("the- “Whalestoe”") == "“whalestoe”"


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        # Paper: {the, oneida, limited} against {oneida, limited} is 2*2/(3+2). SQuAD: the article goes.
        ("The Oneida Limited", ["Oneida Limited"], (0.8, 0.0, 1.0, 1.0)),
        # A repeated word counts once in the set, twice in the multiset: 1 common of 2 and 1 words.
        ("Paris Paris", ["Paris"], (1.0, 0.0, 2 / 3, 0.0)),
        # "U.S." is two words in the paper's dialect and one in SQuAD's.
        ("US", ["U.S."], (0.0, 0.0, 1.0, 1.0)),
        # yes and no match only themselves in SQuAD's F1; the paper's dialect has no such rule.
        ("yes it is", ["yes"], (0.5, 0.0, 0.0, 0.0)),
        ("no", ["no way"], (2 / 3, 0.0, 0.0, 0.0)),
        ("Yes.", ["yes"], (1.0, 1.0, 1.0, 1.0)),
        # Maximum over aliases, each metric for itself.
        ("20 July 1851", ["1851", "July 20, 1851"], (1.0, 0.0, 1.0, 0.0)),
        ("London", ["Paris"], (0.0, 0.0, 0.0, 0.0)),
        ("", ["Paris"], (0.0, 0.0, 0.0, 0.0)),
        # Nothing is left on either side: equal strings, but no word in common.
        ("?", ["!"], (0.0, 1.0, 0.0, 1.0)),
    ],
)
def test_exact_values(prediction, golds, expected):
    values = answer_metrics(prediction, golds)
    assert list(values) == ["f1_paper", "em_paper", "f1_squad", "em_squad", "f1_chars"]
    assert tuple(values.values())[:4] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("prediction", "golds", "expected"),
    [
        # Chinese: 2 characters in common of 4 and 2.
        ("米拉建造", ["米拉"], 2 * 2 / (4 + 2)),
        ("米拉。", ["「米拉」"], 1.0),  # punctuation of any script goes
        ("人人", ["人"], 2 / 3),  # a multiset
        ("京东", ["东京"], 1.0),  # order does not count, as in the other F1
        # Japanese: full-width digits and half-width kana are folded; the year is one word: 1 of 3 and 1.
        ("１９６４年に", ["1964"], 2 * 1 / (3 + 1)),
        ("ﾎﾟｰﾙ", ["ポール"], 1.0),
        # Thai: 7 code points of 13 and 7, vowel signs included.
        ("กรุงเทพมหานคร", ["กรุงเทพ"], 2 * 7 / (13 + 7)),
        ("ວຽງຈັນ", ["ພະນົມເປັນ", "ວຽງຈັນ"], 1.0),  # Lao; the best of the aliases
        ("ရန်ကုန်", ["ភ្នំពេញ"], 0.0),  # Burmese and Khmer
        # Words elsewhere, articles kept: 2 of 3 and 2. Korean has blanks, so its words stay whole.
        ("The Oneida Limited", ["Oneida Limited"], 0.8),
        ("서울 시", ["서울"], 2 / 3),
        ("서울시", ["서울"], 0.0),
        # Nothing but punctuation: equal as written, or 0.
        ("!!!", ["!!!"], 1.0),
        ("?", ["!!!"], 0.0),
        ("", ["米拉"], 0.0),
    ],
)
def test_f1_of_characters(prediction, golds, expected):
    assert f1_chars(prediction, golds) == pytest.approx(expected, abs=1e-15)


def test_no_answer_is_zero_and_no_golds_is_an_error():
    assert answer_metrics(None, ["Paris"]) == {
        "f1_paper": 0.0,
        "em_paper": 0.0,
        "f1_squad": 0.0,
        "em_squad": 0.0,
        "f1_chars": 0.0,
    }
    with pytest.raises(ValueError, match="no gold answers"):
        f1_paper("Paris", [])


@given(prediction=texts, golds=st.lists(texts, min_size=1, max_size=4))
def test_values_lie_in_the_unit_interval_and_more_aliases_never_hurt(prediction, golds):
    values = answer_metrics(prediction, golds)
    first = answer_metrics(prediction, golds[:1])
    assert all(0.0 <= value <= 1.0 for value in values.values())
    assert all(values[name] >= first[name] for name in values)
    assert all(values[name] in (0.0, 1.0) for name in ("em_paper", "em_squad"))
    assert values == answer_metrics(prediction, golds[::-1])


@given(text=texts, other=texts)
def test_identity_gives_one_and_metrics_are_symmetric(text, other):
    assert em_paper(text, [text]) == em_squad(text, [text]) == 1.0
    assert f1_paper(text, [text]) == (1.0 if normalise_paper(text) else 0.0)
    assert f1_chars(text, [text]) == 1.0
    assert f1_squad(text, [text]) == (1.0 if normalise_squad(text) else 0.0)
    assert answer_metrics(text, [other]) == answer_metrics(other, [text])


@given(text=texts, other=texts)
def test_an_exact_match_has_full_f1(text, other):
    if em_paper(text, [other]) and normalise_paper(text):
        assert f1_paper(text, [other]) == 1.0
    if em_squad(text, [other]) and normalise_squad(text):
        assert f1_squad(text, [other]) == 1.0


def test_outcome_function_by_name():
    assert outcome_function("f1") is f1_paper
    assert outcome_function("em") is em_paper
    assert outcome_function("f1_squad") is f1_squad
    assert outcome_function("em_squad") is em_squad
    assert outcome_function("f1_chars") is f1_chars


def test_outcome_function_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_outcomes.py").write_text(
        "def length(prediction, golds):\n    return len(prediction) / len(golds[0])\n"
        "def broken(prediction, golds):\n    return float('nan')\n"
        "def huge(prediction, golds):\n    return 1e308\n"
        "def wordy(prediction, golds):\n    return 'good'\n"
        "NUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert outcome_function("my_outcomes:length")("abc", ["abcdef"]) == 0.5
    with pytest.raises(ValueError, match="finite"):
        outcome_function("my_outcomes:broken")("abc", ["abc"])
    with pytest.raises(ValueError, match=r"must return a number within \+-1e\+30, returned 1e\+308"):
        outcome_function("my_outcomes:huge")("abc", ["abc"])
    with pytest.raises(ValueError, match="must return a number, returned 'good'"):
        outcome_function("my_outcomes:wordy")("abc", ["abc"])
    with pytest.raises(InputError, match="has no 'lenght', did you mean 'length'"):
        outcome_function("my_outcomes:lenght")
    with pytest.raises(InputError, match="not a function but int"):
        outcome_function("my_outcomes:NUMBER")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("f1_sqaud", "did you mean 'f1_squad'"),
        ("reward", "unknown outcome 'reward'"),
        ("no_such_module_here:score", "can't be imported"),
        (":score", "form `module:function`"),
        ("math:", "form `module:function`"),
    ],
)
def test_outcome_function_errors_say_how_to_mend(name, message):
    with pytest.raises(InputError, match=message):
        outcome_function(name)
