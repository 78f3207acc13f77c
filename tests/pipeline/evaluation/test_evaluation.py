"""`rllib evaluate` where tools fail: scores that would say nothing are refused, and a few failures
are told."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tiny_policy import write_experiment

from envs.data.question import Question
from envs.errors import InputError
from envs.search.trajectory import ActionKind, Rollout, Termination, ToolCall, Turn
from pipeline.evaluation.evaluation import evaluate, report
from pipeline.evaluation.saved_policy import open_policy

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
    assert done.summary()["tool_error_share"] == pytest.approx(0.2)


def test_a_filter_by_scores_does_not_keep_them_from_being_made(tmp_path, monkeypatch):
    """An experiment may name the file that `rllib evaluate --config` of it is to write."""
    env = {"question_filter": {"scores": str(tmp_path / "before.json")}}
    write_experiment(tmp_path / "demo.yaml", "tiny", env=env)

    def reached(*arguments, **settings):
        raise InputError("the task was loaded")

    monkeypatch.setattr("envs.engine.build.build_engine", reached)
    with pytest.raises(InputError, match="the task was loaded"):
        open_policy("tiny", str(tmp_path / "demo.yaml"))


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
    assert done.summary()["too_long"] == 1 and done.summary()["questions"] == 10
