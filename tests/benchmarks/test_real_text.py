"""The tables of a real model's runs: what is kept of a run, and of one that went on from another."""

import json
from dataclasses import replace
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest
from rollout_log_samples import train_1

from benchmarks.real_text import __main__ as real_text
from pipeline.analysis import open_run
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter

RUNS = {"first": range(1, 3), "second": range(3, 4)}


@pytest.fixture
def tables(tmp_path, monkeypatch):
    def open_run(name):
        rows = [
            {"seed": 2, "run_id": name, "update": update, "em": 0.5, "searches": 1.0, "unanswered": 0.0,
             "rollouts": 64 * k, "tokens": 1000 * k}
            for k, update in enumerate(RUNS[name], start=1)
        ]  # fmt: skip
        return SimpleNamespace(
            sql=lambda query: SimpleNamespace(to_arrow_table=lambda: pa.Table.from_pylist(rows))
        )

    monkeypatch.setattr(real_text, "open_run", open_run)
    monkeypatch.setattr(real_text, "UPDATES", tmp_path / "updates.csv")
    monkeypatch.setattr(real_text, "HELDOUT", tmp_path / "heldout.csv")
    return tmp_path


def test_a_run_that_went_on_from_another_counts_on(tables):
    (tables / "scores.json").write_text(json.dumps({"episodes": [episode("q", 1.0, "")]}))
    for _ in range(2):  # kept again, it takes the place of what was there
        real_text.keep(["first", "second"], "noisy", "grpo", tables / "scores.json")
    kept = duckdb.read_csv(str(tables / "updates.csv")).project("run_id, update, rollouts, tokens").fetchall()
    assert kept == [("first", 1, 64, 1000), ("first", 2, 128, 2000), ("second", 3, 192, 3000)]
    assert duckdb.read_csv(str(tables / "heldout.csv")).project("run_id, seed").fetchall() == [("second", 2)]


def episode(question_id, em, text):
    """A scored question, whose gold answer is `Rome`, and which read `text`."""
    scores = dict.fromkeys(("em_squad", "f1_squad", "em_paper", "f1_paper"), em)
    return {"question_id": question_id, "golden_answers": ["Rome"], "turns": [{"observation": text}]} | scores


def test_scores_by_kind_of_question(tables):
    episodes = [
        episode("director+died/1", 1.0, "in ROME, 1999"),
        episode("director+died/2", 0.0, "in Rome"),
        episode("director+born/3", 0.0, "in Paris"),
    ]
    (tables / "scores.json").write_text(json.dumps({"episodes": episodes}))
    real_text.keep(["first"], "noisy", "grpo", tables / "scores.json")
    table = real_text._by_kind("noisy")
    assert [column.header for column in table.columns[2:]] == [
        "director+born",
        "director+died",
        "gold answer read",
    ]
    assert [list(column.cells) for column in table.columns] == [["grpo"], ["2"], ["0.00"], ["0.50"], ["0.67"]]


def test_what_was_sampled_and_not_trained_on_counts(tmp_path):
    """Iteration 1 trains on four rollouts of eight that were sampled, of which one is right."""
    sampled = {"em_sampled": 0.125, "rollouts_sampled": 8.0, "tokens_sampled": 500.0}
    with RolloutLogWriter(tmp_path / "run" / "rollouts", "run", 1, info=RunInfo()) as log:
        log.write(train_1(), sampled)
        log.write(replace(train_1(), iteration=2), {"kl": 0.5})
    run = open_run(tmp_path / "run")
    rows = run.sql(real_text.UPDATES_OF_RUN).to_arrow_table().to_pylist()
    ((trained, tokens, em),) = run.sql(
        "SELECT count(*), sum(decision_tokens), avg(em_squad) FROM episodes WHERE iteration = 2"
    ).fetchall()
    assert [(row["update"], row["em"], row["rollouts"], row["tokens"]) for row in rows] == [
        (1, 0.125, 8, 500),
        (2, em, 8 + trained, 500 + tokens),
    ]


def test_a_run_that_does_not_follow_is_refused(tables):
    with pytest.raises(SystemExit, match="second begins at update 3, and 0 are there before it"):
        real_text.keep(["second"], "noisy", "grpo", None)
    assert not (tables / "updates.csv").exists()
