"""Scores by data set, in the paper's layout."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from envs.data.question import Question
from envs.data.sources.field_names import STANDARD
from envs.search.trajectory import Rollout, Termination
from pipeline.evaluation.benchmark_table import AVERAGE, benchmark_row
from pipeline.evaluation.evaluation import Evaluation, report, select_questions

METRICS = ("f1_paper", "em_paper", "f1_squad", "em_squad", "f1_chars")


def test_the_average_weighs_data_sets_alike():
    row = benchmark_row({"nq": [1.0, 1.0, 1.0, 0.0], "bamboogle": [0.25]})
    assert (row["nq"].mean, row["nq"].questions) == (0.75, 4)
    assert (row["bamboogle"].mean, row["bamboogle"].low, row["bamboogle"].high) == (0.25, 0.25, 0.25)
    assert (row[AVERAGE].mean, row[AVERAGE].questions) == (0.5, 5)
    # One data set has no spread, so the average's interval is half as wide as the other's.
    assert row[AVERAGE].low == pytest.approx((row["nq"].low + 0.25) / 2)
    assert row[AVERAGE].high == pytest.approx((row["nq"].high + 0.25) / 2)


def test_the_interval_of_an_average_narrows_with_more_data_sets():
    values = list(np.tile([0.0, 1.0], 50))
    one, four = benchmark_row({"a": values}), benchmark_row({name: values for name in "abcd"})
    width = four[AVERAGE].high - four[AVERAGE].low
    assert width == pytest.approx((one["a"].high - one["a"].low) / 2, rel=0.1)
    assert one[AVERAGE] == one["a"]


def evaluation(*scores):
    """One rollout a score: (data set, score in every metric)."""
    groups = []
    for k, (source, score) in enumerate(scores):
        rollout = Rollout(f"r{k}", f"g{k}", Question(f"q{k}", "Who?", ["a"], data_source=source), answer="a")
        rollout.termination, rollout.metrics = Termination.ANSWERED, dict.fromkeys(METRICS, score)
        groups.append([rollout])
    return Evaluation("mine", 1, groups)


def printed(found, width=120):
    console = Console(file=io.StringIO(), width=width)
    report(found, console)
    return " ".join(console.file.getvalue().replace("│", " ").replace("┃", " ").split())


def test_a_report_of_several_data_sets_has_the_paper_s_table():
    found = evaluation(("nq", 1.0), ("nq", 0.0), ("popqa", 1.0))
    said = printed(found)
    assert "mine: % by data set, 95% interval below" in said and "nq popqa Avg" in said
    assert "f1_paper 50.0 100.0 75.0 0.0-100.0 100.0-100.0 50.0-100.0" in said
    assert "questions 2 1 3" in said
    cell = found.summary["by_data_source"]["em_squad"]["Avg"]
    assert cell == {"mean": 0.75, "low": 0.5, "high": 1.0, "questions": 3}


def test_seven_data_sets_are_rows_where_columns_would_be_cut():
    names = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihop", "musique", "bamboogle")
    found = evaluation(*((name, 1.0) for name in names))
    console = Console(file=io.StringIO(), width=80)
    report(found, console)
    lines = console.file.getvalue().splitlines()
    for name in (*names, AVERAGE):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.split()[1:6] == ["100.0"] * 5
    assert "…" not in console.file.getvalue()


def test_a_report_of_one_data_set_has_none():
    assert "by data set" not in printed(evaluation(("nq", 1.0), ("nq", 0.0)))


def test_questions_of_several_files(tmp_path):
    for name, count in (("nq", 3), ("popqa", 1)):
        (tmp_path / name).mkdir()
        records = [{"id": str(k), "question": f"{name} {k}?", "golden_answers": ["a"]} for k in range(count)]
        (tmp_path / name / "dev.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    policy = SimpleNamespace(
        task=SimpleNamespace(
            corpus=None,
            heldout_questions=[Question("own", "Own?", ["a"])],
            settings=SimpleNamespace(fields=STANDARD),
        )
    )
    files = [str(tmp_path / name / "dev.jsonl") for name in ("nq", "popqa")]
    chosen = select_questions(policy, files, episodes=2)
    assert [(question.data_source, question.id) for question in chosen] == [
        ("nq", "0"),
        ("nq", "1"),
        ("popqa", "0"),
    ]
    assert [question.id for question in select_questions(policy, [], None)] == ["own"]
