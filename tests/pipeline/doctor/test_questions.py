"""What is said of questions that cannot be played, or have no belief, before a run starts."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_engine import ScriptedEngine, tiny_task

from algorithms.credit import get_preset
from algorithms.igpo.config import IGPOConfig
from envs.data.question import Question
from envs.runner.rollout_loop import RolloutLoop
from envs.search.roles import RoleSettings
from pipeline.doctor import checks, measurements
from pipeline.doctor.findings import Subject
from pipeline.doctor.questions import look_at_questions
from pipeline.evaluation.saved_policy import Policy

LONG = Question("long", "mother of " * 500 + "?", ["red"])


def subject_of(task, preset="igpo") -> Subject:
    config: Any = SimpleNamespace(credit_config=lambda: get_preset(preset).credit)
    nothing: Any = None
    return Subject(nothing, config, task)


@pytest.fixture
def task(tmp_path):
    """300 training questions: one in the middle does not fit, the last has a whole table for an answer."""
    task = tiny_task(tmp_path, world={"train_questions": 298, "heldout_questions": 10})
    table = replace(task.train_questions[0], id="table", golds=["red " * 200])
    task.train_questions.insert(150, LONG)
    task.train_questions.append(table)
    return task


def test_all_questions_are_looked_at(task):
    told = []
    seen = look_at_questions(task, lambda done, total: told.append((done, total)))
    train, heldout = seen["train"], seen["heldout"]
    assert (train.questions, train.too_long, train.without_belief) == (300, ["long"], ["table"])
    assert (heldout.questions, heldout.too_long, heldout.without_belief) == (10, [], [])
    assert told == [(200, 310)] and train.longest_prompt == 1003
    assert train.note()["too_long"] == {"count": 1, "ids": ["long"]}
    assert train.note()["without_belief"] == {"count": 1, "ids": ["table"]}


def test_what_is_left_out_is_said(task):
    needed = look_at_questions(task)["train"].context_needed["max_context_tokens"]
    found = checks.prompts(subject_of(task))
    assert found.status == "warn"
    assert "1 (long) of 300 training questions left out" in found.message
    assert f"max_context_tokens={needed} would play them all" in found.message
    assert "1 (table) of 300 training questions played without belief" in found.message
    assert "without belief" not in checks.prompts(subject_of(task, "grpo")).message, "it reads none"
    for limit in (needed - 1, needed):
        task.settings = task.settings.model_copy(update={"max_context_tokens": limit})
        assert ("left out" in checks.prompts(subject_of(task)).message) == (limit < needed)


def test_the_context_of_a_role_is_named_where_it_is_too_short(task):
    task.settings = task.settings.model_copy(
        update={"max_context_tokens": 2000, "roles": [RoleSettings(name="searcher", max_context_tokens=900)]}
    )
    needed = look_at_questions(task)["train"].context_needed
    assert list(needed) == ["roles.0.max_context_tokens"]
    said = checks.prompts(subject_of(task)).message
    assert f"; roles.0.max_context_tokens={needed['roles.0.max_context_tokens']} would play them all" in said


def test_heldout_questions_without_room_count_as_unanswered(task):
    task.heldout_questions[0] = LONG
    assert "1 (long) of 10 held-out questions count as unanswered" in checks.prompts(subject_of(task)).message


def test_a_run_without_a_question_that_can_be_played_does_not_start(task):
    task.train_questions[:] = [LONG]
    found = checks.prompts(subject_of(task))
    assert found.status == "fail"
    assert "no training question can be played; the first, long: its prompt of 1003 tokens" in found.message


def test_measurements_take_the_questions_that_can_be_played(task):
    engine = ScriptedEngine(task, lambda context, turn: "<answer> red <end>")
    loop = RolloutLoop(task, {"default_policy": engine})
    policy = Policy("scripted", IGPOConfig(), task, {}, loop)
    task.heldout_questions[0] = LONG
    task.heldout_questions[1] = replace(task.heldout_questions[1], golds=["red " * 200])
    assert "(8 questions)" in measurements.belief(policy).message
    assert "(9 at temperature 1)" in measurements.format_validity(policy).message
    task.heldout_questions[:] = [LONG]
    assert "no held-out prompt leaves room" in measurements.format_validity(policy).message
