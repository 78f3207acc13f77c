"""The numbers that a soak reports, by hand."""

import json
import os

import duckdb
import pyarrow as pa
import pytest
from rollout_log_samples import train_1, train_2, write_run

from benchmarks.kill_matrix.run import run_folder
from benchmarks.soak.__main__ import port_of_retriever, write_experiment
from benchmarks.soak.report import STEPS, growth
from benchmarks.soak.watch import folder_bytes, looked
from pipeline.analysis import open_run


def test_growth_is_that_after_the_first_fifth():
    """Ten looks, a minute apart: the driver grows by 1 MiB a minute, the first two looks are its start."""
    rows = [
        {"minutes": float(k), "process": "driver", "mib": 100.0 + k, "descriptors": 5 + k} for k in range(10)
    ]
    rows[0]["mib"] = rows[1]["mib"] = 0.0
    rows += [{"minutes": float(k), "process": "gone", "mib": 7.0, "descriptors": 1} for k in range(2)]
    assert _growth(rows) == [("driver", 10, 102.0, 109.0, pytest.approx(60.0), 7, 14)]


def test_processes_of_each_part_are_told_apart():
    """A part of ten looks that grows by 1 MiB a minute; after a kill one of five that grows by 2."""
    first = [{"minutes": float(k), "mib": 100.0 + k, "part": 1} for k in range(10)]
    second = [{"minutes": 10.0 + k, "mib": 50.0 + 2 * k, "part": 2} for k in range(5)]
    rows = [{"process": "driver", "descriptors": 5} | row for row in first + second]
    assert _growth(rows) == [
        ("driver, part 1", 10, 102.0, 109.0, pytest.approx(60.0), 5, 5),
        ("driver, part 2", 5, 52.0, 58.0, pytest.approx(120.0), 5, 5),
    ]


def _growth(rows):
    return growth(duckdb.from_arrow(pa.Table.from_pylist([{"part": 1} | row for row in rows])))


def test_a_soak_knows_how_far_it_came(tmp_path):
    assert looked(tmp_path) == (0, 0.0)
    lines = [{"part": 1, "minutes": 9.5, "process": "gcs"}, {"part": 2, "minutes": 12.25, "process": "gcs"}]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert looked(tmp_path) == (2, 12.25)


def test_a_soak_goes_on_with_the_port_of_its_experiment(tmp_path):
    assert port_of_retriever(tmp_path) is None
    write_experiment(tmp_path, 40417)
    assert port_of_retriever(tmp_path) == 40417


def test_the_size_of_a_run_counts_every_file(tmp_path):
    run = tmp_path / "runs/soak/20261127"
    (run / "rollouts").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "rollouts/a").write_bytes(b"12345")
    assert run_folder(tmp_path) == run
    assert folder_bytes(run) == 7 + sum(path.lstat().st_size for path in run.rglob("*") if path.is_dir())


def test_a_folder_that_goes_away_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    (tmp_path / "kept").write_bytes(b"12345")
    found = os.scandir

    def scan(path):
        if str(path).endswith("gone"):
            raise FileNotFoundError(path)
        return found(path)

    monkeypatch.setattr("os.scandir", scan)
    assert folder_bytes(tmp_path) == 5 + (tmp_path / "gone").lstat().st_size


def test_the_seconds_of_a_step_are_counted_once(tmp_path):
    """4.5 s in all, of which 3 and 1 in phases; then 2.5 s and 0.5 of logging; six and one calls."""
    later = train_2()
    later.seconds["log"] = 0.5
    with open_run(write_run(tmp_path, written=[train_1(), later])) as run:
        assert run.sql(STEPS).fetchall() == [(1, 4.5, 6, 0), (2, 3.0, 1, 0)]
