"""Gold answers, under the names and in the forms in which frameworks write them."""

import re
from itertools import chain
from pathlib import Path

import pytest

from envs.errors import InputError
from pipeline.importing import record
from pipeline.importing.golds import GOLDS, gold_field, read_golds


@pytest.mark.parametrize(
    "record",
    [
        {"gts": '{"target": ["Malmö", "Malmo"]}'},
        {"reward_model": '{"style": "rule", "ground_truth": {"target": ["Malmö", "Malmo"]}}'},
        {"reward_model": {"ground_truth": '{"target": ["Malmö", "Malmo"]}'}},
        {"reward_model": "{'style': 'rule', 'ground_truth': ['Malmö', 'Malmo']}"},
        {"reward_model": {"ground_truth": "Malmö<|answer_split|>Malmo"}},
        {"ground_truth": "['Malmö', 'Malmo']"},
        {"ground_truth": "['Malmö','Malmo']"},
        {"ground_truth": {"answers": ["Malmö", "Malmo"]}},
        {"answer": {"value": "Malmö", "aliases": ["Malmo"]}},
        {"label": {"ground_truth": {"target": ["Malmö", "Malmo"]}}},
        {"extra_info": {"answer": ["Malmö", "Malmo"]}},
        {"extra_info": {"ground_truth": ["Malmö", "Malmo"]}},
        {"extra_info": '{"answer": ["Malmö", "Malmo"]}'},
        {"reward_spec": {"method": "rule", "ground_truth": {"target": ["Malmö", "Malmo"]}}},
        {"info": {"answer": ["Malmö", "Malmo"]}},
    ],
)
def test_forms(record):
    assert read_golds(record, "here") == ["Malmö", "Malmo"]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"answer": "Oslo", "solution": "Malmö"}, "solution"),
        ({"answers": ["Oslo"], "label": "Malmö"}, "label"),
        ({"answer": "Oslo", "extra_info": {"ground_truth": "Malmö"}}, "extra_info.ground_truth"),
        ({"answer": "Malmö", "info": {}, "extra_info": None, "reward_model": "a-model"}, "answer"),
    ],
)
def test_an_answer_of_the_policy_is_not_taken_for_gold(record, name):
    assert gold_field(record)[0] == name
    assert read_golds(record, "here") == ["Malmö"]


@pytest.mark.parametrize(
    "text", ["['Malmö' 'Malmo']", "[Verse]", "{1, 2}", "{'target': ['a'", "array(['Malmö'], dtype=object)"]
)
def test_what_looks_like_a_list_and_is_none_is_refused(text):
    with pytest.raises(InputError, match="here: `gts` looks like a list or an object and cannot be read"):
        read_golds({"gts": text}, "here")


@pytest.mark.parametrize("text", ["[a] b", "Malmö (Sweden)", "{x} and y"])
def test_brackets_within_an_answer_are_its_own(text):
    assert read_golds({"gts": text}, "here") == [text]
    assert read_golds({"gts": ["[Verse]"]}, "here") == ["[Verse]"]


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"messages": [], "truth": "Malmö"}, "the fields are 'messages', 'truth'"),
        ({"golds": []}, r"`golds` is \[\]"),
    ],
)
def test_no_gold_answer_says_what_was_found(record, found):
    with pytest.raises(InputError, match=f"no gold answer: give one as `golden_answers`.*`label`.*{found}"):
        read_golds(record, "here")


def test_an_object_without_a_known_name_is_refused():
    with pytest.raises(InputError, match="`gts` must be a text, .* an object with `target`, found {'x': 1}"):
        read_golds({"gts": {"x": 1}}, "here")


def test_the_docs_name_every_field_in_the_order_in_which_they_count():
    page = (Path(__file__).parents[3] / "docs" / "importing.md").read_text()
    (row,) = re.findall(r"^\| `golden_answers` .*", page, re.MULTILINE)
    named = re.findall(r"`([\w.]+)`", row.removeprefix("| `golden_answers`"))
    named.insert(GOLDS.index("golden_answers"), "golden_answers")
    assert tuple(named) == GOLDS
    others = (record.REWARDS, record.GROUPS, record.STEPS, record.IDS, record.TOOLS, record.ENDS)
    assert all(f"`{name}`" in page for name in chain(*others))
