"""Questions of several sources: mixed by weight, filtered, in growing hops, from Hugging Face data sets."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data.prompt_sampler import PromptCursor, Share, by_growing_hops
from envs.data.question import Question
from envs.data.question_filter import QuestionFilter, filter_questions
from envs.data.question_set import load_question_set
from envs.data.questions import load_questions
from envs.errors import InputError


def write_questions(path, count, hops=None, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [
        {
            "id": f"{k}",
            "question": f"{path} {k}?",
            "golden_answers": [f"a{k}"],
            "metadata": {"hops": hops[k] if hops else 2},
        }
        for k in range(count)
    ]
    path.write_text("".join(json.dumps(record | changes) + "\n" for record in records))
    return str(path)


def test_draws_follow_the_weights_and_every_source_goes_round():
    cursor = PromptCursor(10, seed=0, shares=[Share(8, 3.0), Share(2, 1.0)])
    drawn = cursor.next(32)
    assert [index >= 8 for index in drawn[:8]] == [False, False, True, False] * 2
    assert Counter(index >= 8 for index in drawn) == {False: 24, True: 8}
    assert set(Counter(drawn).values()) == {3, 4}  # 24 draws over 8 questions, 8 draws over 2


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    data=st.data(),
    cut=st.integers(0, 40),
    curriculum=st.integers(0, 30),
)
def test_a_mixture_survives_a_restore_and_keeps_to_its_weights(sizes, data, cut, curriculum):
    weights = data.draw(st.lists(st.floats(0.1, 5), min_size=len(sizes), max_size=len(sizes)))
    options = {
        "shares": [Share(size, weight) for size, weight in zip(sizes, weights, strict=True)],
        "hops_N": data.draw(
            st.lists(st.sampled_from([None, 1, 2, 3]), min_size=sum(sizes), max_size=sum(sizes))
        ),
        "curriculum_prompts": curriculum,
    }
    whole = PromptCursor(sum(sizes), 5, **options).next(60)
    before = PromptCursor(sum(sizes), 5, **options)
    start = before.next(cut)
    after = PromptCursor(sum(sizes), 5, **options)
    after.restore(json.loads(json.dumps(before.state())))
    assert start + after.next(60 - cut) == whole
    first = 0
    for size, weight in zip(sizes, weights, strict=True):
        of_source = [index for index in whole if first <= index < first + size]
        assert abs(len(of_source) - 60 * weight / sum(weights)) < len(sizes)
        for epoch in range(0, len(of_source), size):
            assert len(set(of_source[epoch : epoch + size])) == len(of_source[epoch : epoch + size])
        first += size


def test_hops_grow():
    order, hops = [10, 11, 12, 13, 14, 15], [3, 1, 2, 1, 2, 3]
    # Two positions for each of the three levels; within what is allowed the order stays.
    assert by_growing_hops(order, hops, prompts=6) == [11, 13, 12, 14, 10, 15]
    assert by_growing_hops(order, hops, prompts=2) == [11, 12, 10, 13, 14, 15]
    assert by_growing_hops(order, [2] * 6, prompts=6) == order
    first = PromptCursor(6, 0, hops_N=[3, 1, 2, 1, 2, 3], curriculum_prompts=6).next(6)
    assert sorted(first[:2]) == [1, 3] and sorted(first[2:4]) == [2, 4]


def test_sources_of_one_layout_keep_apart(tmp_path):
    nq, hotpot = (
        write_questions(tmp_path / "nq/train.jsonl", 40),
        write_questions(tmp_path / "hotpotqa/train.jsonl", 20),
    )
    loaded = load_question_set({nq: 1.0, hotpot: 3.0})
    assert {question.data_source for question in loaded.train} == {"nq", "hotpotqa"}
    assert {question.id.split("/")[0] for question in loaded.train} == {"nq", "hotpotqa"}
    assert len(loaded.train) + len(loaded.heldout) == 60 and sum(
        share.size for share in loaded.shares
    ) == len(loaded.train)
    drawn = loaded.cursor(seed=0).next(40)
    assert sum(loaded.train[index].data_source == "hotpotqa" for index in drawn) == 30
    other = load_question_set({nq: 1.0, hotpot: 2.0}).cursor(seed=0)
    with pytest.raises(InputError, match="other training questions"):
        other.restore(loaded.cursor(seed=0).state())
    with pytest.raises(InputError, match="both hold a question nq/0"):
        load_question_set({nq: 1.0, write_questions(tmp_path / "b/nq/train.jsonl", 3): 1.0})


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


def test_nothing_left_is_said(tmp_path):
    source = write_questions(tmp_path / "one.jsonl", 30)
    other, few = write_questions(tmp_path / "two.jsonl", 30, hops=[3] * 30), QuestionFilter(min_hops=3)
    with pytest.raises(
        InputError, match=r"one.jsonl has no training questions left \(\d+ fewer than 3 hops\)"
    ):
        load_question_set({other: 1.0, source: 1.0}, question_filter=few)
    with pytest.raises(InputError, match=r"one.jsonl has no training questions left \(all are held out\)"):
        load_question_set(source, heldout_questions=source)


def test_what_is_held_out_is_not_trained_on(tmp_path, caplog):
    heldout = write_questions(tmp_path / "dev.jsonl", 2)
    records = [json.loads(line) for line in Path(heldout).read_text().splitlines()]
    records[0]["question"] = f" {records[0]['question'].upper()} "
    records += [records[1] | {"id": "new", "question": "who?"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    loaded = load_question_set(str(tmp_path / "train.jsonl"), heldout_questions=heldout)
    assert [question.id for question in loaded.train] == ["new"] and len(loaded.heldout) == 2
    assert "2 training questions are left out" in caplog.text and "dev.jsonl holds them too" in caplog.text


def test_a_hugging_face_data_set(tmp_path):
    pytest.importorskip("datasets")
    write_questions(tmp_path / "set/dev.jsonl", 3)
    write_questions(tmp_path / "set/train.jsonl", 5)
    loaded = load_questions(f"hf:{tmp_path}/set@validation")
    assert [(q.id, q.golds, q.data_source, q.hops) for q in loaded] == [
        (f"{k}", [f"a{k}"], "set", 2) for k in range(3)
    ]
    assert len(load_questions(f"hf:{tmp_path}/set")) == 5
    with pytest.raises(InputError, match="can't be loaded"):
        load_questions(f"hf:{tmp_path}/set@nowhere")
    with pytest.raises(InputError, match="must have the form hf:NAME"):
        load_questions("hf:a@b@c")


def test_a_hugging_face_data_set_that_breaks_off(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def rows(*arguments, **options):
        yield {"id": "x", "question": "Who?", "answer": "Ada"}
        raise ConnectionError()

    monkeypatch.setattr(datasets, "load_dataset", rows)
    with pytest.raises(InputError, match="hf:owner/name can't be loaded: ConnectionError"):
        load_questions("hf:owner/name")


def test_hugging_face_s_own_field_names(tmp_path):
    pytest.importorskip("datasets")
    record = {
        "id": "x",
        "question": "Who?",
        "answer": "Ada",
        "supporting_facts": {"title": ["A", "B"], "sent_id": [0, 1]},
    }
    (tmp_path / "hotpot").mkdir()
    (tmp_path / "hotpot/train.jsonl").write_text(json.dumps(record))
    (question,) = load_questions(f"hf:{tmp_path}/hotpot")
    assert (question.golds, question.hops, question.metadata["supporting_titles"]) == (["Ada"], 2, ["A", "B"])
