"""Reading questions in both formats, splitting them, and finding their evidence in a corpus."""

import json
import logging
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data.corpus import Corpus, Document, load_corpus
from envs.data.question import Question
from envs.data.questions import fingerprint, load_questions, resolve_gold_documents, split_by_hash
from envs.errors import InputError


@pytest.fixture
def write_jsonl(tmp_path):
    def write(*records: dict | str) -> Path:
        path = tmp_path / "hotpot.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
        return path

    return write


@pytest.fixture
def write_parquet(tmp_path):
    def write(*records: dict) -> Path:
        path = tmp_path / "test.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), path)
        return path

    return write


def flashrag(**changes) -> dict:
    record = {"id": "q1", "question": " Who? ", "golden_answers": ["Ada", "", " Ada ", "Ada Lovelace"]}
    return {key: value for key, value in (record | changes).items() if value is not ...}


def igpo(**changes) -> dict:
    record = {
        "data_source": "popqa",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
        "reward_model": {"ground_truth": "Ada<|answer_split|>Ada Lovelace", "style": "unknown"},
        "extra_info": {"index": "popqa_7", "split": "dev"},
    }
    return record | changes


def test_flashrag(write_jsonl):
    path = write_jsonl(
        flashrag(metadata={"supporting_titles": ["B", "A", "B"], "type": "bridge"}),
        flashrag(id="q2", golden_answers="Ada"),
        flashrag(id=3, metadata={"hops": 4}),
        flashrag(id="q4", metadata={"supporting_facts": {"title": ["A", "A", "C"], "sent_id": [0, 1, 0]}}),
    )
    first, second, third, fourth = load_questions(path)
    assert first == Question(
        id="q1",
        text="Who?",
        golds=["Ada", "Ada Lovelace"],
        data_source="hotpot",
        hops=2,
        metadata={"supporting_titles": ["B", "A"], "type": "bridge"},
    )
    assert (second.golds, second.hops, second.metadata) == (["Ada"], None, {})
    assert (third.id, third.hops) == ("3", 4)
    assert fourth.metadata["supporting_titles"] == ["A", "C"]


def test_igpo_parquet(write_parquet):
    path = write_parquet(igpo(), igpo(extra_info={"index": "", "split": "dev"}))
    first, second = load_questions(path)
    assert first == Question(id="popqa_7", text="Who?", golds=["Ada", "Ada Lovelace"], data_source="popqa")
    assert second.id == "popqa-1"


@pytest.mark.parametrize("place", ["column", "extra_info", "prompt"])
def test_search_r1_parquet(write_parquet, place):
    """verl's search recipe: answers under `target`; the prompt's instructions are left out where the question
    stands alone.
    """
    index = {"index": 3, "split": "train"}
    changes = {"extra_info": index | {"question": "Who?"} if place == "extra_info" else index}
    changes |= {"question": "Who?"} if place == "column" else {}
    said = "Who?" if place == "prompt" else "Answer the given question. Question: Who?"
    truth = {"target": ["Ada", "Ada Lovelace"]}
    row = igpo(
        prompt=[{"role": "user", "content": said}],
        reward_model={"ground_truth": truth, "style": "rule"},
        **changes,
    )
    (question,) = load_questions(write_parquet(row))
    assert question == Question(id="popqa-3", text="Who?", golds=["Ada", "Ada Lovelace"], data_source="popqa")


def test_integer_indices_count_within_their_source(write_parquet):
    rows = [igpo(data_source=source, extra_info={"index": 0}) for source in ("nq", "tq")]
    assert [question.id for question in load_questions(write_parquet(*rows))] == ["nq-0", "tq-0"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", r"hotpot\.jsonl:2: not valid JSON"),
        ('{"id": ' + "1" * 5000 + "}", r"hotpot\.jsonl:2: not valid JSON"),
        ("[1]", r"hotpot\.jsonl:2: expected a JSON object, found list"),
        (
            flashrag(golden_answers=...),
            r"hotpot\.jsonl:2: no `golden_answers` is among the fields 'id', .*: say which are which",
        ),
        (flashrag(golden_answers=[" "]), r"hotpot\.jsonl:2: question 'q1' has no golden answers"),
        (
            flashrag(golden_answers=[3]),
            r"hotpot\.jsonl:2: `golden_answers` of question 'q1' .*, found \[3\]: write \"3\", with quotes",
        ),
        (
            flashrag(golden_answers=float("nan")),
            r"`golden_answers` of question 'q1' must be a list of texts, found nan$",
        ),
        (flashrag(question=...), r"hotpot\.jsonl:2: no `question`"),
        (flashrag(golden_answers=["\ud800"]), r"hotpot\.jsonl:2: `golden_answers` is not valid Unicode"),
        (flashrag(question="  "), r"hotpot\.jsonl:2: the question is empty"),
        (flashrag(id=["x"]), r"hotpot\.jsonl:2: `id` must be text, found list"),
        (flashrag(id=1.5), r"hotpot\.jsonl:2: `id` must be text, found float"),
        ({"q": "Who?"}, r"hotpot\.jsonl:2: no `question` is among the fields 'q': say which are which"),
        (flashrag(id="q0"), r"hotpot\.jsonl:2: id 'q0' was already used at .*hotpot\.jsonl:1"),
        (flashrag(metadata=["x"]), r"hotpot\.jsonl:2: `metadata` must be an object"),
        (flashrag(metadata={"supporting_titles": "A"}), "must be a list of titles"),
        (flashrag(metadata={"hops": 0}), "whole number from 1"),
    ],
)
def test_bad_lines_are_refused_with_file_and_line(write_jsonl, record, message):
    with pytest.raises(InputError, match=message):
        load_questions(write_jsonl(flashrag(id="q0"), record))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward_model": {"ground_truth": "<|answer_split|>"}},
            "row 0: question 'popqa_7' has no golden answers",
        ),
        ({"reward_model": {"style": "rule"}}, "row 0: question 'popqa_7' has no golden answers"),
        ({"prompt": [{"role": "system", "content": "x"}]}, "row 0: `prompt` must be a list of chat messages"),
        ({"prompt": "Who?"}, "row 0: `prompt` must be a list of chat messages"),
        (
            {"reward_model": {"ground_truth": {"target": [1]}}},
            "row 0: `reward_model.ground_truth` of question 'popqa_7' must be a list",
        ),
        ({"question": 7}, "row 0: the question must be text, found int"),
        ({"data_source": 1.5}, "row 0: `data_source` must be text, found float"),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(write_parquet, changes, message):
    with pytest.raises(InputError, match=message):
        load_questions(write_parquet(igpo(**changes)))


def test_bad_files_are_refused(tmp_path, write_jsonl, write_parquet):
    with pytest.raises(InputError, match="does not exist"):
        load_questions(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="does not exist"):
        load_questions(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="holds no questions"):
        load_questions(write_jsonl())
    with pytest.raises(InputError, match=r"row 0: no `question` is among the fields 'x'"):
        load_questions(write_parquet({"x": 1}))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="can't be read as Parquet"):
        load_questions(tmp_path / "broken.parquet")
    (tmp_path / "q.xlsx").write_text("")
    with pytest.raises(InputError, match=r"q\.xlsx ends in \.xlsx, and \.jsonl, "):
        load_questions(tmp_path / "q.xlsx")


def question(number: int, text: str | None = None, **fields) -> Question:
    return Question(id=f"q{number}", text=text or f"question {number}?", golds=["x"], **fields)


HELDOUT_OF_20 = ["q2", "q5", "q10", "q15"]
"""Frozen: another split would train on what an earlier run held out."""


def test_split_is_frozen_and_keeps_twins_together():
    questions = [question(n) for n in range(20)]
    train, heldout = split_by_hash(questions, 0.2)
    assert [q.id for q in heldout] == HELDOUT_OF_20
    assert [q for q in questions if q not in heldout] == train
    twins = [question(100 + n, f" Question  {n}? ") for n in range(20)]
    train, heldout = split_by_hash(questions + twins, 0.2)
    assert {q.id for q in heldout} == set(HELDOUT_OF_20) | {f"q{100 + int(i[1:])}" for i in HELDOUT_OF_20}


@given(share=st.floats(0.2, 0.8))
def test_split_share_is_about_right_and_grows_by_addition(share):
    questions = [question(n) for n in range(400)]
    train, heldout = split_by_hash(questions, share)
    assert len(train) + len(heldout) == 400
    assert abs(len(heldout) / 400 - share) < 0.1
    fewer = {q.id for q in split_by_hash(questions[:200], share)[1]}
    assert fewer == {q.id for q in heldout} & {q.id for q in questions[:200]}


def test_a_split_with_an_empty_side_is_refused():
    with pytest.raises(InputError, match="leaves . for training and . held out"):
        split_by_hash([question(1)], 0.2)
    with pytest.raises(InputError, match="between 0 and 1"):
        split_by_hash([question(1), question(2)], 1.0)


def test_gold_documents_are_found_by_title(caplog):
    corpus = Corpus([Document("a1", "A", "."), Document("b1", "B", "."), Document("a2", "A", "..")])
    questions = [
        question(1, metadata={"supporting_titles": ["B", "a"]}),
        question(2, metadata={"supporting_titles": ["A", "Missing"]}),
        question(3, metadata={"supporting_titles": ["A"]}, gold_document_ids=["b1"]),
        question(4),
    ]
    with caplog.at_level(logging.WARNING):
        resolved = resolve_gold_documents(questions, corpus)
    assert [q.gold_document_ids for q in resolved] == [["b1", "a1", "a2"], ["a1", "a2"], ["b1"], []]
    assert questions[0].gold_document_ids == []
    assert "1 of 4 supporting titles are not in corpus (first: 'Missing')" in caplog.text


def test_fingerprint_follows_ids_texts_golds_and_order():
    one, two = question(1), question(2)
    assert fingerprint([one, two]) == fingerprint([question(1), question(2)])
    variants = [[one, two], [two, one], [one], [one, question(2, "other?")], []]
    assert len({fingerprint(variant) for variant in variants}) == 5


@pytest.mark.skipif(
    "IGPO_TEST_DATA" not in os.environ, reason="IGPO_TEST_DATA (folder of real data) is not set"
)
def test_real_questions():
    folder = Path(os.environ["IGPO_TEST_DATA"])
    hotpot = resolve_gold_documents(
        load_questions(folder / "hotpotqa_60.jsonl"), load_corpus(folder / "wikipedia_passages.jsonl")
    )
    assert [len(q.gold_document_ids) for q in hotpot] == [2] * 60
    benchmarks = load_questions(folder / "igpo_benchmarks_448.parquet")
    assert len(benchmarks) == 448
    assert {q.data_source for q in benchmarks} == {
        "2wiki",
        "Bamboogle",
        "hotpotqa",
        "musique",
        "nq",
        "popqa",
        "tq",
    }
    alberta = next(q for q in benchmarks if q.id == "popqa_1511830")
    assert alberta.text == "What is the capital of Alberta?"
    assert alberta.golds == ["Edmonton", "Edmonton, Alberta", "Edmonton, AB", "City of Edmonton"]
