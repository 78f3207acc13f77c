"""The tables of a real model's runs: what is kept of a run, and of one that went on from another."""

import json
from types import SimpleNamespace

import duckdb
import pyarrow as pa
import pytest

from benchmarks.real_text import __main__ as real_text

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
    scores = {"question_id": "q", "em_squad": 1.0, "f1_squad": 1.0, "em_paper": 1.0, "f1_paper": 1.0}
    (tables / "scores.json").write_text(json.dumps({"episodes": [scores]}))
    for _ in range(2):  # kept again, it takes the place of what was there
        real_text.keep(["first", "second"], "noisy", "grpo", tables / "scores.json")
    kept = duckdb.read_csv(str(tables / "updates.csv")).project("run_id, update, rollouts, tokens").fetchall()
    assert kept == [("first", 1, 64, 1000), ("first", 2, 128, 2000), ("second", 3, 192, 3000)]
    assert duckdb.read_csv(str(tables / "heldout.csv")).project("run_id, seed").fetchall() == [("second", 2)]


def test_a_run_that_does_not_follow_is_refused(tables):
    with pytest.raises(SystemExit, match="second begins at update 3, and 0 are there before it"):
        real_text.keep(["second"], "noisy", "grpo", None)
    assert not (tables / "updates.csv").exists()
