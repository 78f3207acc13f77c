"""Questions of several sources: mixed by weight, filtered, held out; and Hugging Face data sets."""

import json
from pathlib import Path

import pytest

from envs.data.question_filter import QuestionFilter
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
    drawn = loaded.prompt_sampler(seed=0).next(40)
    assert sum(loaded.train[index].data_source == "hotpotqa" for index in drawn) == 30
    other = load_question_set({nq: 1.0, hotpot: 2.0}).prompt_sampler(seed=0)
    with pytest.raises(InputError, match="other training questions"):
        other.restore(loaded.prompt_sampler(seed=0).state())
    with pytest.raises(InputError, match="both hold a question nq/0"):
        load_question_set({nq: 1.0, write_questions(tmp_path / "b/nq/train.jsonl", 3): 1.0})


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


def test_each_source_of_a_split_has_an_identity_of_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("a.jsonl", 8), ("b.jsonl", 5), ("dev.jsonl", 2)):
        records = [{"id": k, "question": f"{name} {k}?", "golden_answers": [f"a{k}"]} for k in range(count)]
        Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    apart = load_question_set({"a.jsonl": 1.0, "b.jsonl": 2.0}, heldout_questions="dev.jsonl").identity
    assert [tuple(part.values()) for part in apart] == [
        ("train", "a.jsonl", "cd016184a75bf35e44d027d17d4d040a22844de3d755a25e993b33ef4b478b49", 8),
        ("train", "b.jsonl", "d780a7e6f8d1db43ddb7a073c45c75da7a1896ba581ef8b2e2afdb689127bbbc", 5),
        ("heldout", "dev.jsonl", "2e25e5cb14bc137f474d54c05047e2a345119a56ce33a9b87375c9209aedee16", 2),
    ]
    split = load_question_set({"a.jsonl": 1.0, "b.jsonl": 2.0}, heldout_share=0.4).identity
    assert [(part["split"], part["source"], part["questions"]) for part in split] == [
        ("train", "a.jsonl", 5),
        ("train", "b.jsonl", 3),
        ("heldout", "a.jsonl", 3),
        ("heldout", "b.jsonl", 2),
    ]
    assert len({part["content_hash"] for part in [*apart, *split]}) == 7
    Path("copy.jsonl").write_text(Path("dev.jsonl").read_text() + "\n")
    other = load_question_set("a.jsonl", heldout_questions="copy.jsonl").identity
    assert other[1]["content_hash"] == apart[2]["content_hash"], "of the content, not of the file"
