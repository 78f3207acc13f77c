"""`igpo data demonstrations` and `igpo warm-start` as a person calls them."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from tiny_policy import write_experiment, write_policy

import pipeline.cli.igpo
from algorithms.igpo.model.causal_lm import load_causal_lm
from algorithms.warm_start.fine_tune import FineTuner
from envs.data.sources.field_names import FieldNames
from envs.demonstrations.demonstration import Demonstration, load_demonstrations, save_demonstrations
from envs.search.task import SearchTask
from pipeline.experiment.experiment import load_experiments

PASSAGES = [
    (
        "The Glass Boat",
        "The Glass Boat is a 1934 French drama film directed by Constantin J. David and starring Ida Moor.",
    ),
    (
        "Constantin J. David",
        "Constantin J. David( 18 February 1886 – 5 May 1964) was a German film director.",
    ),
    ("Rough Shoot", "Rough Shoot is a 1953 British thriller film directed by Robert Parrish."),
]


@pytest.fixture
def igpo(run):
    return lambda *arguments: run(*arguments, app=pipeline.cli.igpo.app)


@pytest.fixture
def igpo_refused(refused):
    return lambda *arguments: refused(*arguments, app=pipeline.cli.igpo.app)


@pytest.fixture
def passages(tmp_path):
    lines = [
        json.dumps({"id": str(k), "contents": f'"{title}"\n{text}'})
        for k, (title, text) in enumerate(PASSAGES)
    ]
    (tmp_path / "passages.jsonl").write_text("\n".join(lines))
    return tmp_path / "passages.jsonl"


def test_demonstrations_are_written_and_said(igpo, igpo_refused, passages, tmp_path):
    test = {
        "id": "t",
        "question": "Who?",
        "golden_answers": ["x"],
        "metadata": {"supporting_titles": ["Rough Shoot"]},
    }
    (tmp_path / "test.jsonl").write_text(json.dumps(test))
    out = tmp_path / "demos.jsonl"
    call = ("data", "demonstrations", passages, "--out", out, "--exclude", tmp_path / "test.jsonl")
    code, said = igpo(*call)
    assert code == 0
    assert (
        "8 demonstrations (5 of one hop, 3 of two) written to" in said
        and "300 were wanted: the corpus has no more" in said
    )
    assert "dropped: 2 excluded" in said and len(load_demonstrations(out)) == 8
    assert "demos.jsonl exists: give a file that does not" in igpo_refused(*call)
    assert "name one with --config" in igpo_refused(
        "data", "demonstrations", passages, "-o", tmp_path / "x", "--set", "a=1"
    )
    assert "does not exist" in igpo_refused(
        "data", "demonstrations", tmp_path / "no.jsonl", "-o", tmp_path / "x"
    )


def test_demonstrations_of_files_with_names_of_ones_own(igpo, igpo_refused, tmp_path):
    """Passages and excluded questions by the names of an experiment, or passages by those that are typed."""
    corpus, test, out = tmp_path / "wiki.jsonl", tmp_path / "test.jsonl", tmp_path / "demos.jsonl"
    corpus.write_text("".join(json.dumps({"page": t, "said": x}) + "\n" for t, x in PASSAGES))
    test.write_text(json.dumps({"asked": "Who?", "gold": "x", "pages": ["Rough Shoot"]}))
    call = ("data", "demonstrations", corpus, "-o", out)
    said = igpo_refused(*call)
    assert said.endswith("say which is which with `--field id=NAME --field title=NAME --field text=NAME`")
    assert "`--field title=pgae` names 'pgae', which no record of" in igpo_refused(
        *call, "--field", "title=pgae", "--field", "text=said"
    )
    code, said = igpo(*call, "--field", "title=page", "--field", "text=said")
    assert code == 0 and "10 demonstrations" in said, said
    assert load_demonstrations(out)[0].question.metadata["supporting_titles"][0] in dict(PASSAGES)
    names = {
        "corpus_fields": {"title": "page", "text": "said"},
        "fields": {"question": "asked", "answers": "gold", "titles": "pages"},
    }
    experiment = write_experiment(tmp_path / "own.yaml", "tiny", env=names)
    more = ("--exclude", test, "--config", experiment)
    code, said = igpo("data", "demonstrations", corpus, "-o", tmp_path / "others.jsonl", *more)
    assert code == 0 and "8 demonstrations" in said and "dropped: 2 excluded" in said, said


def test_demonstrations_with_names_of_ones_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"asked": "Who?", "gold": "x", "metadata": {"searches": ["who"]}}))
    (one,) = load_demonstrations(path, FieldNames(question="asked", answers="gold"))
    assert (one.question.text, one.question.golds, one.searches) == ("Who?", ["x"], ["who"])


@pytest.fixture
def world(tmp_path):
    """An experiment on the generated world and demonstrations of its training questions: the names of the
    documents.
    """
    experiment = write_experiment(
        tmp_path / "demo.yaml", write_policy(tmp_path / "policy"), env={"max_turns": 4}
    )
    task = SearchTask(load_experiments(experiment)[0].algorithm_config().env_settings())
    demonstrations = [
        Demonstration(
            question, [task.corpus.by_id(document).title for document in question.gold_document_ids]
        )
        for question in task.train_questions[:40]
    ]
    save_demonstrations(demonstrations, tmp_path / "demos.jsonl")
    return experiment, tmp_path / "demos.jsonl", task


def test_a_warm_start_makes_a_model_that_trains_on(igpo, igpo_refused, world, tmp_path):
    experiment, demonstrations, task = world
    out = tmp_path / "made" / "warm"
    call = (
        "warm-start",
        experiment,
        "--demonstrations",
        demonstrations,
        "--out",
        out,
        "--epochs",
        2,
        "--lr",
        "0.01",
    )
    code, said = igpo(*call)
    assert code == 0, said
    assert (
        "40 demonstrations, 4 held out" in said
        and "epoch 2/2: held-out loss" in said
        and "use it as model_path" in said
    )
    note = json.loads((out / "warm_start.json").read_text())
    before, *_, after = note["heldout_loss"]
    assert len(note["heldout_loss"]) == 3 and after < before - 0.5
    assert (note["updates"], note["played"], note["dropped"]) == (6, 40, {})
    assert [path.name for path in out.parent.iterdir()] == ["warm"]  # nothing half-made beside it
    SearchTask(load_experiments(experiment, [f"model_path={out}"])[0].algorithm_config().env_settings())
    assert load_causal_lm(str(out), torch.float32).config.vocab_size == len(task.protocol.tokenizer)
    assert "exists: give a folder that does not" in igpo_refused(*call)


def test_ctrl_c_keeps_what_was_learned(igpo, world, tmp_path, monkeypatch):
    update = FineTuner._update
    monkeypatch.setattr(
        FineTuner, "_update", lambda self, rows: (signal.raise_signal(signal.SIGINT), update(self, rows))[1]
    )
    experiment, demonstrations, _ = world
    code, said = igpo(
        "warm-start", experiment, "-d", demonstrations, "--out", tmp_path / "warm", "--epochs", 5
    )
    assert code == 130 and "saving after this update; again to stop at once" in said, said
    assert "stopped after 1 of 15 updates" in said
    note = json.loads((tmp_path / "warm" / "warm_start.json").read_text())
    assert (note["updates"], note["updates_planned"], len(note["heldout_loss"])) == (1, 15, 1)
    assert (tmp_path / "warm" / "model.safetensors").is_file()


def test_a_test_question_is_not_taught(igpo_refused, world, tmp_path):
    """Nor one that is written in another case."""
    experiment, demonstrations, task = world
    heldout = task.heldout_questions[0]
    taught = replace(heldout, text=f" {heldout.text.upper()}")
    save_demonstrations([Demonstration(taught, ["mother"])], demonstrations)
    said = igpo_refused("warm-start", experiment, "-d", demonstrations, "--out", tmp_path / "warm")
    assert "1 demonstrations of" in said and "are held-out questions of the experiment" in said
    assert not (tmp_path / "warm").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heldout-share", "0"], "leave 40 to train on and 0 held out"),
        (["--set", "model_path=/nowhere"], "/nowhere"),
        (["--set", "env_config.max_turn_tokens=1"], "none of the 40 demonstrations can be played"),
        (["--demonstrations", "questions.jsonl"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence(igpo_refused, world, tmp_path, arguments, message):
    experiment, demonstrations, _ = world
    assert message in igpo_refused(
        "warm-start", experiment, "-d", demonstrations, "--out", tmp_path / "warm", *arguments
    )
    assert not (tmp_path / "warm").exists()
