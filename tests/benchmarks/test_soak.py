"""The numbers that a soak reports, by hand."""

import os

import duckdb
import pyarrow as pa
import pytest
from rollout_log_samples import train_1, train_2, write_run

from benchmarks.kill_matrix.run import run_folder
from benchmarks.soak.report import STEPS, growth
from benchmarks.soak.watch import folder_bytes
from pipeline.analysis import open_run


def test_growth_is_that_after_the_first_fifth():
    """Ten looks, a minute apart: the driver grows by 1 MiB a minute, the first two looks are its start."""
    rows = [
        {"minutes": float(k), "process": "driver", "mib": 100.0 + k, "descriptors": 5 + k} for k in range(10)
    ]
    rows[0]["mib"] = rows[1]["mib"] = 0.0
    rows += [{"minutes": float(k), "process": "gone", "mib": 7.0, "descriptors": 1} for k in range(2)]
    (driver,) = growth(duckdb.from_arrow(pa.Table.from_pylist(rows)))
    assert driver == ("driver", 10, 102.0, 109.0, pytest.approx(60.0), 7, 14)


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
