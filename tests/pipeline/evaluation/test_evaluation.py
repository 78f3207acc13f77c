"""`rllib evaluate` where tools fail: scores that would say nothing are refused, and a few failures
are told."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tiny_policy import write_experiment

from envs.data.question import Question
from envs.errors import InputError
from envs.search.trajectory import ActionKind, Rollout, Termination, ToolCall, Turn
from pipeline.evaluation.evaluation import evaluate, report
from pipeline.evaluation.intervals import bootstrap_means
from pipeline.evaluation.saved_policy import open_policy
from pipeline.evaluation.selection import COMPARED, SELECTION, Selection
from pipeline.run_directory.checkpoints import Checkpoints

DOWN = "the search failed: the server 127.0.0.1:8000 can't be reached (Connection refused)"
METRICS = ("f1_paper", "em_paper", "f1_squad", "em_squad", "f1_chars")


def policy(failures: int) -> Any:
    """Each rollout searches once and answers wrong; the first `failures` searches fail."""

    def run(jobs):
        records = []
        for k, job in enumerate(jobs):
            call = (
                ToolCall("search", {"query": "?"}, error=DOWN, failed=True)
                if k < failures
                else ToolCall("search", {})
            )
            turns = [Turn(0, "searcher", "default_policy", "", ActionKind.TOOL, tool_calls=[call])]
            rollout = Rollout(job.rollout_id, job.group_id, job.question, turns=turns)
            rollout.termination, rollout.metrics = Termination.ANSWERED, dict.fromkeys(METRICS, 0.0)
            records.append(SimpleNamespace(rollout=rollout))
        return records, None

    return SimpleNamespace(
        source="mine", config=SimpleNamespace(max_tool_error_share=0.2), loop=SimpleNamespace(run=run)
    )


QUESTIONS = [Question(str(k), "Who?", ["a"], data_source="nq") for k in range(10)]


def test_scores_of_a_policy_that_could_not_search_are_refused():
    with pytest.raises(InputError) as refused:
        evaluate(policy(failures=3), QUESTIONS)
    assert (
        str(refused.value)
        == "3 of 10 tool calls failed while answering, more than max_tool_error_share 0.2; the commonest "
        f"error: {DOWN}"
    )


def test_a_few_failures_are_told():
    done, console = evaluate(policy(failures=2), QUESTIONS), Console(file=io.StringIO(), width=120)
    report(done, console)
    assert "1.00 turns on average; errors in 20.0% of tool calls" in console.file.getvalue()
    assert done.summary["tool_error_share"] == pytest.approx(0.2)


def test_answers_are_saved_before_they_are_reported(run, monkeypatch, tmp_path):
    opened = policy(failures=0)
    opened.task = SimpleNamespace(heldout_questions=QUESTIONS)

    def report(done, console):
        raise InputError(f"{len(json.loads((tmp_path / 'scores.json').read_text())['episodes'])} are there")

    monkeypatch.setattr("pipeline.evaluation.saved_policy.open_policy", lambda *_, **__: opened)
    monkeypatch.setattr("pipeline.evaluation.evaluation.report", report)
    code, said = run("evaluate", "tiny", "--out", tmp_path / "scores.json")
    assert code == 2 and "error: 10 are there" in said


def test_no_interval_is_computed_twice(monkeypatch, tmp_path):
    """Five metrics of all questions, and of each of two data sets."""
    computed = []

    def bootstrap(values, *, seed=0):
        computed.append(seed)
        return bootstrap_means(values, seed=seed)

    for module in ("benchmark_table", "intervals"):
        monkeypatch.setattr(f"pipeline.evaluation.{module}.bootstrap_means", bootstrap)
    others = [replace(question, data_source="popqa") for question in QUESTIONS]
    done = evaluate(policy(failures=0), QUESTIONS + others)
    done.save(tmp_path / "scores.json")
    report(done, Console(file=io.StringIO(), width=120))
    assert len(computed) == 5 + 5 * 2


@pytest.mark.usefixtures("full_disk")
def test_scores_for_which_the_disk_has_no_room_leave_the_old_ones(tmp_path):
    (tmp_path / "scores.json").write_text("old")
    with pytest.raises(OSError, match="No space left on device"):
        evaluate(policy(failures=0), QUESTIONS).save(tmp_path / "scores.json")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


RUN = {"schema_version": 1, "name": "demo", "run_id": "r", "status": "finished", "attempts": []}


def make_best(run, *, iterations=(2, 4), noted=True):
    """A run's folder whose checkpoint of iteration 2 is `best`, chosen on the first six questions."""
    note = {"run_id": "r", "best_score": 0.5}
    if noted:
        note[SELECTION] = Selection.of(QUESTIONS[:6], "em_squad", [2]).note()
    (run / "checkpoints").mkdir(parents=True)
    saver = SimpleNamespace(save_to_path=lambda path: None)
    checkpoints = Checkpoints(run / "checkpoints", None)
    checkpoints.save(saver, 2, note, best=True)
    checkpoints.save(saver, 4, {"run_id": "r", "best_score": 0.5})
    (run / "run.json").write_text(json.dumps(RUN | ({COMPARED: iterations} if noted else {})))
    return run / "checkpoints"


def said(source, questions):
    opened = policy(failures=0)
    opened.source = str(source)
    done, console = evaluate(opened, questions), Console(file=io.StringIO(), width=400)
    report(done, console)
    return console.file.getvalue().splitlines()[-1], done.summary["chosen"]


def test_the_questions_that_chose_best_are_named_where_they_are_asked_again(tmp_path):
    folder = make_best(tmp_path / "run")
    line, chosen = said(folder / "best", QUESTIONS)
    assert line == (
        "This checkpoint is its run's `best`, chosen by em_squad on 6 questions, among 2 iterations (2, 4). "
        "6 of the 10 questions here are among them, so this score is too good on average: ask others with "
        "--questions."
    )
    assert chosen == {
        "metric": "em_squad", "questions": 6, "asked_again": 6, "asked": 10, COMPARED: [2, 4],
    }  # fmt: skip
    assert said(folder / "best", QUESTIONS[6:])[0].endswith("None of them is asked here.")
    moved = tmp_path / "moved"
    (folder / "iteration_000002").rename(
        moved
    )  # without its run: it knows what was compared when it was saved
    assert said(moved, QUESTIONS)[1][COMPARED] == [2]


def test_a_checkpoint_that_was_not_chosen_says_nothing_of_it(tmp_path):
    line, chosen = said(make_best(tmp_path / "run") / "last", QUESTIONS)
    assert chosen is None and line.startswith("rollouts: ")
    assert said("mine", QUESTIONS)[1] is None


def test_the_iteration_of_the_checkpoint_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_best(tmp_path / "run")
    for name, iteration in (("best", 2), ("last", 4), ("iteration_000002", 2)):
        opened = policy(failures=0)
        opened.source = f"run/checkpoints/{name}"
        done, console = evaluate(opened, QUESTIONS), Console(file=io.StringIO(), width=400)
        report(done, console)
        told = " ".join(console.file.getvalue().split())
        assert told.startswith(f"run/checkpoints/{name} (iteration {iteration}): 10 questions, greedy")
        assert done.summary["iteration"] == iteration
    assert evaluate(policy(failures=0), QUESTIONS).summary["iteration"] is None


def test_best_of_an_old_run_says_what_it_knows(tmp_path):
    line, chosen = said(make_best(tmp_path / "run", noted=False) / "best", QUESTIONS)
    assert line.startswith(
        "This checkpoint is its run's `best`, chosen by its held-out em_squad; the run did"
    )
    assert chosen["questions"] is chosen["asked_again"] is chosen[COMPARED] is None


def test_a_filter_by_scores_does_not_keep_them_from_being_made(tmp_path, monkeypatch):
    """An experiment may name the file that `rllib evaluate --config` of it is to write."""
    env = {"question_filter": {"scores": str(tmp_path / "before.json")}}
    write_experiment(tmp_path / "demo.yaml", "tiny", env=env)

    def reached(*arguments, **settings):
        raise InputError("the task was loaded")

    monkeypatch.setattr("envs.engine.build.build_engine", reached)
    with pytest.raises(InputError, match="the task was loaded"):
        open_policy("tiny", str(tmp_path / "demo.yaml"))


def test_own_code_that_has_changed_since_the_run_began_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_judge.py").write_text("def f(answer, golds): return 1.0\n")
    monkeypatch.setattr("pipeline.evaluation.saved_policy.start_policy", lambda *_: None)
    experiment = write_experiment(tmp_path / "demo.yaml", "tiny", env={"outcome": "own_judge:f"})
    saver = SimpleNamespace(save_to_path=lambda path: (Path(path) / "hf").mkdir())
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint = Checkpoints(tmp_path / "run" / "checkpoints", experiment=experiment).save(
        saver, 2, {"run_id": "r"}
    )
    sentence = "the file of `own_judge:f`, or one that it imports, has changed since run r began"
    same = hashlib.sha256((tmp_path / "own_judge.py").read_bytes()).hexdigest()[:12]
    for code, options, told in (
        (same, {}, []),
        ("0" * 12, {}, [sentence]),
        ("0" * 12, {"config": str(experiment)}, []),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps(RUN | {"own_code": {"own_judge:f": code}}))
        caplog.clear()
        open_policy(str(checkpoint), trust=True, **options)
        assert caplog.messages == told
    (tmp_path / "run" / "run.json").unlink()
    open_policy(str(checkpoint), trust=True)
    assert caplog.messages == []


def test_questions_whose_prompt_has_no_room_count_as_wrong_and_are_named():
    opened = policy(failures=0)
    run = opened.loop.run

    def without_room(jobs):
        records, _ = run(jobs)
        records[3].rollout.turns, records[3].rollout.termination = [], Termination.TOKEN_LIMIT
        return records, None

    opened.loop.run = without_room
    done, console = evaluate(opened, QUESTIONS), Console(file=io.StringIO(), width=120)
    report(done, console)
    assert "1 of 10 questions count as unanswered" in console.file.getvalue() and done.too_long == ["3"]
    assert done.summary["too_long"] == 1 and done.summary["questions"] == 10


def test_adapters_of_a_checkpoint_are_merged_for_an_engine_that_serves_none(tmp_path):
    """W + alpha / rank B A at the adapted layers, the base elsewhere."""
    import torch
    from igpo_learner_setup import save_tiny_llama

    from envs.engine.lora import LoraSettings, read_adapter, write_adapter
    from pipeline.evaluation.saved_policy import _whole_model

    base, layers = save_tiny_llama(tmp_path / "base"), range(2)
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((2, 32), (32, 2)))
    name = "model.layers.{}.self_attn.v_proj"
    tensors = {f"{name.format(k)}.lora_A.default.weight": a.clone() for k in layers}
    tensors |= {f"{name.format(k)}.lora_B.default.weight": b.clone() for k in layers}
    write_adapter(tmp_path / "adapter", LoraSettings(rank=2, alpha=3.0, targets=["v_proj"]), tensors, base)
    config: Any = SimpleNamespace(model_dtype="float32", trust_remote_code=False)
    merged = _whole_model(config, base, read_adapter(tmp_path / "adapter"))
    plain = _whole_model(config, base, None)
    assert merged.keys() == plain.keys()
    for key, tensor in plain.items():
        expected = tensor + 3.0 / 2 * b @ a if "v_proj" in key else tensor
        torch.testing.assert_close(merged[key], expected, atol=1e-6, rtol=0)
