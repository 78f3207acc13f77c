"""`igpo ask`: what it says of the answer, and which words of a question the policy has never seen."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from scripted_engine import ScriptedEngine, tiny_task
from transformers import AutoTokenizer

from envs.engine.models import resolve_model
from pipeline.evaluation.ask import ask, unknown_words


@pytest.mark.parametrize(
    ("golds", "told"),
    [(["nurse"], "right"), (["coach", "chef"], "wrong; right: coach / chef"), (None, "<answer> nurse <end>")],
)
def test_an_outcome_of_ones_own_is_not_asked(tmp_path, monkeypatch, golds, told):
    """What it reads in `metadata` is not there for a question that a person types."""
    (tmp_path / "own_rubric.py").write_text("def f(answer, golds, metadata): return metadata['rubric']\n")
    monkeypatch.chdir(tmp_path)
    task = tiny_task(tmp_path / "tokenizer", outcome="own_rubric:f")
    engine = ScriptedEngine(task, lambda context, turn: "<answer> nurse <end>")
    policy: Any = SimpleNamespace(
        task=task, loop=SimpleNamespace(engines={"default_policy": engine}), beliefs=lambda queries: [[0.5]]
    )
    console = Console(file=io.StringIO(), width=100)
    rollout = ask(policy, "trade of fata ?", console, golds=golds)
    assert rollout.answer == "nurse" and task.settings.outcome == "own_rubric:f"
    assert console.file.getvalue().splitlines()[-1].strip() == told


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        ("<search> trade of fata ? <end>", ["turn 0 searcher  cut off", "no answer (token limit)"]),
        ("fata <end>", ["turn 0 searcher  malformed: a decision must start", "no answer (malformed)"]),
    ],
)
def test_a_decision_that_cannot_be_read_is_told_in_words(tmp_path, decision, told):
    task = tiny_task(tmp_path, max_turn_tokens=4)
    engine = ScriptedEngine(task, lambda context, turn: decision)
    policy: Any = SimpleNamespace(task=task, loop=SimpleNamespace(engines={"default_policy": engine}))
    console = Console(file=io.StringIO(), width=100)
    ask(policy, "trade of fata ?", console)
    lines = console.file.getvalue().splitlines()
    assert [lines[1][: len(told[0])], lines[-1]] == told
    assert not lines[1].rstrip().endswith(":")


def test_words_that_the_embedded_policy_does_not_know():
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"))
    assert unknown_words(tokenizer, "king of mother of France ?") == ["king", "France"]
    assert unknown_words(tokenizer, "trade of mother of fata ?") == []


def test_a_tokenizer_that_spells_any_word(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("tiny"))
    tokenizer.unk_token = None
    assert unknown_words(tokenizer, "king") == []
