"""The kill matrix: its cells, its moments, what it counts, its table, and that it can be stopped."""

import argparse
import json
import os
import random
import sqlite3
import threading
import time
from contextlib import ExitStack, closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rollout_log_samples import records, write_run
from safetensors.torch import save_file

from benchmarks.kill_matrix import __main__ as program
from benchmarks.kill_matrix import beside as around
from benchmarks.kill_matrix import commands
from benchmarks.kill_matrix import uninterrupted as reference
from benchmarks.kill_matrix.beside import Beside
from benchmarks.kill_matrix.cells import Cell, Kill, all_cells, kills_of, quick_cells
from benchmarks.kill_matrix.code import code_digest
from benchmarks.kill_matrix.measures import measure, state_on_disk
from benchmarks.kill_matrix.table import table


def test_the_cells():
    cells = all_cells()
    assert len(set(cells)) == len(cells) and set(quick_cells()) <= set(cells)
    assert len(kills_of(cells, 3)) >= 200
    first, second = kills_of(cells[:2], 2)[:2]
    assert (first.cell, second.cell, first.number) == (cells[0], cells[1], 1), "no cell twice before all once"


def test_servers_are_beside_their_configuration_alone(tmp_path):
    with Beside(tmp_path, "synchronous") as beside:
        assert beside.env_config == beside.environment == {}
    of_servers = {cell.configuration for cell in all_cells() if cell.process in ("retriever", "MLflow")}
    assert of_servers == {"servers"}


def test_a_locked_store_is_there_again_after_its_strike(tmp_path, monkeypatch):
    monkeypatch.setattr(around, "AWAY", (0.5, 0.5))
    (tmp_path / "runs").mkdir()
    with closing(sqlite3.connect(tmp_path / "runs/mlflow.db", timeout=0)) as store:
        store.execute("CREATE TABLE metrics (step INTEGER)")
        beside, refused = Beside(tmp_path, "synchronous"), 0
        locker = threading.Thread(target=beside.strike, args=("locked store", random.Random(0)))
        locker.start()
        while locker.is_alive():
            try:
                store.execute("INSERT INTO metrics VALUES (1)")
                store.rollback()
            except sqlite3.OperationalError:
                refused += 1
            time.sleep(0.01)
        assert refused > 0
        store.execute("INSERT INTO metrics VALUES (2)")


def test_a_small_disk_fills_up_and_is_relieved(tmp_path):
    with ExitStack() as stack:
        try:
            beside = stack.enter_context(Beside(tmp_path, "small disk"))
        except PermissionError as error:
            pytest.skip(str(error))
        (tmp_path / "runs/before").write_text("x" * 5000)
        beside.strike("full disk", random.Random(0))
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "runs/during").write_text("x" * 5000)
        beside.relieve()
        (tmp_path / "runs/after").write_text("x" * 5000)
    assert not os.path.ismount(tmp_path / "runs")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"before", "during", "after"}


def test_results_of_other_commands_are_compared_but_for_their_seconds(tmp_path):
    def result(name, em, seconds, weight):
        folder = tmp_path / name
        (folder / "cells").mkdir(parents=True)
        pq.write_table(pa.table({"em": [0.5, em], "seconds": [1.0, seconds]}), folder / "cells/a.parquet")
        save_file({"w": torch.tensor([weight])}, folder / "model.safetensors")
        return folder

    before = result("before", 1.0, 2.0, 1.0)
    same = {"values": 2, "values_different": 0, "tensors": 1, "tensors_different": 0}
    assert commands._compare(before, result("same", 1.0, 3.0, 1.0)) == same
    other = commands._compare(before, result("other", 0.0, 2.0, 2.0))
    assert (other["values_different"], other["tensors_different"]) == (1, 1)
    (tmp_path / "none").mkdir()
    lost = commands._compare(before, tmp_path / "none")
    assert (lost["values_different"], lost["tensors_different"]) == (2, 1)


def test_a_warm_start_that_was_killed_after_its_end_is_done(tmp_path):
    assert not commands._is_done("igpo warm-start", tmp_path, -9)
    (tmp_path / "out").mkdir()
    assert commands._is_done("igpo warm-start", tmp_path, -9)
    assert not commands._is_done("igpo study", tmp_path, -9) and commands._is_done("igpo study", tmp_path, 0)


def test_moments_are_seeded():
    kill, other = (Kill(Cell("driver", "sampling", "synchronous"), number) for number in (1, 2))
    draws = [
        kill.chance(0).random(),
        kill.chance(0).random(),
        kill.chance(1).random(),
        other.chance(0).random(),
    ]
    assert draws[0] == draws[1] and len(set(draws)) == 3


@pytest.fixture
def make_run(tmp_path):
    """A run's folder as the matrix reads it."""

    def make(name, written=None, steps=(1, 2), weight=1.0):
        run = write_run(tmp_path / name / "runs" / "kill", "id", written)
        (run / "run.json").write_text(
            json.dumps(
                {
                    "schema_version": 1,
                    "name": "kill",
                    "run_id": "id",
                    "status": "finished",
                    "attempts": [{}],
                    "iteration": 2,
                    "mlflow_run_id": "m",
                }
            )
        )
        weights = run / "checkpoints/last/hf"
        weights.mkdir(parents=True)
        save_file({"w": torch.tensor([weight])}, weights / "model.safetensors")
        with sqlite3.connect(run.parents[1] / "mlflow.db") as store:
            store.execute("CREATE TABLE metrics (key TEXT, step INTEGER, run_uuid TEXT)")
            rows = [("train/em", step, "m") for step in steps] + [("train/em", 1, "another"), ("kl", 1, "m")]
            store.executemany("INSERT INTO metrics VALUES (?, ?, ?)", rows)
        return run

    return make


def test_equal_runs_have_lost_nothing(make_run):
    found = measure(make_run("now"), make_run("before"))
    assert found.pop("values") > 100 and found.pop("attempts") == 1 and found.pop("first_difference") is None
    assert set(found.values()) == {0}, found


def test_what_is_lost_or_doubled_is_counted(make_run):
    written = records()
    del written[0].rollouts[2:]  # group g2 of iteration 1 is gone
    found = measure(make_run("now", written, steps=(1, 1), weight=2.0), make_run("before"))
    assert (found["prompts_skipped"], found["prompts_repeated"]) == (1, 0)
    assert (found["metrics_doubled"], found["metrics_missing"], found["tensors_different"]) == (1, 1, 1)
    assert found["values_different"] >= 4 and found["first_difference"].startswith("iteration 1 (train)")


def test_rows_that_are_there_twice_are_counted(make_run):
    written = records()
    written[0].rollouts.append(written[0].rollouts[0])
    found = measure(make_run("now", written), make_run("before"))
    turns = written[0].rollouts[0].turns
    assert found["rows_doubled"] == 1 + len(turns) + sum(len(turn.tool_calls) for turn in turns)
    assert found["values_different"] == found["rows_doubled"]


def test_the_state_that_a_kill_left(make_run):
    run = make_run("now")
    (run / "checkpoints/iteration_000002").mkdir()
    (run / "checkpoints/.iteration_000003.host.1.x.tmp").mkdir()
    assert state_on_disk(run) == {
        "saved": [2],
        "half_a_checkpoint": 1,
        "half_a_log_file": 0,
        "committed": 2,
        "status": "finished",
    }
    assert state_on_disk(None) == {"run": False}


def test_the_run_to_compare_with_is_made_anew_where_the_code_has_changed(make_run, monkeypatch):
    run = make_run("out/uninterrupted/synchronous")
    out, folder, said = run.parents[4], run.parents[2], []
    timings = dict.fromkeys(("start", "evaluation", "sampling", "learning", "push", "checkpoint", "end"), 1.0)
    kept = {"code": "a", "commit": "c0ffee", "timings": timings}
    (folder / reference.TIMINGS).write_text(json.dumps(kept))
    monkeypatch.setattr(reference, "code_digest", lambda: "a")
    assert reference.uninterrupted(out, "synchronous", said.append) == (run, reference.Timings(**timings))
    assert said == []

    class Started(Exception):
        pass

    def command(*args, **environment):
        raise Started

    monkeypatch.setattr(reference, "train", command)
    monkeypatch.setattr(reference, "code_digest", lambda: "b")
    with pytest.raises(Started):
        reference.uninterrupted(out, "synchronous", said.append)
    assert said == [
        "the uninterrupted run of 'synchronous' was made by other code (commit c0ffee): it is made anew"
    ]
    assert not run.exists(), "the old run is gone"


def test_the_digest_of_the_code_is_that_of_its_files(tmp_path):
    module, page = tmp_path / "envs/a.py", tmp_path / "docs/a.md"
    for file in (module, page):
        file.parent.mkdir()
        file.write_text("1")
    before = code_digest(tmp_path)
    page.write_text("2")
    assert code_digest(tmp_path) == before
    module.write_text("2")
    assert code_digest(tmp_path) != before


def result(process="driver", **changes):
    cell = {"process": process, "phase": "sampling", "configuration": "synchronous"}
    return (
        cell | {"kill": f"{process} 1", "killed": process, "lost": False, "iterations_repeated": 1} | changes
    )


def test_the_table():
    rows = table(
        [
            result(values_different=0, metrics_missing=2),
            result(iterations_repeated=0, prompts_skipped=1, phase="start"),
            result("gcs", lost=True),
        ]
    ).splitlines()
    assert rows[0].startswith(
        "| configuration | killed | phases | kills | runs lost | iterations repeated, most |"
    )
    assert rows[2] == "| synchronous | driver | start, sampling | 2 | 0 | 1 | 1 | 0 | 2 | 0 | 0 | 0 |"
    assert rows[3] == "| synchronous | gcs | sampling | 1 | 1 | 1 | 0 | 0 | 0 | 0 | 0 | 0 |"
    assert rows[4].startswith("| all | | | 3 | 1 | 1 | 1 |") and len(rows) == 5


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    made = []

    def kill(kill, out, seed, say):
        made.append(kill.name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return result(kill=kill.name, seed=seed, moment="", codes=[], seconds=1.0)

    monkeypatch.setattr(program, "try_kill", kill)
    kills = kills_of(quick_cells(), 1)[:3]
    args = argparse.Namespace(out=tmp_path, seed=0, minutes=None)
    with pytest.raises(KeyboardInterrupt):
        program.run(kills, args)
    with (tmp_path / program.RESULTS).open("a") as file:
        file.write('{"kill": "cut o')
    assert program.run(kills, args) == 0
    assert made == [kills[0].name, kills[1].name, kills[1].name, kills[2].name]
    assert "3 of 3 kills, 0 not ok" in capsys.readouterr().out
    assert [row["kill"] for row in program.load(tmp_path)] == [kill.name for kill in kills]


@pytest.mark.parametrize(
    ("wanted", "made", "bad", "excused", "code"),
    [
        (3, 3, 0, 0, 0),
        (3, 3, 1, 0, 1),
        (3, 2, 0, 0, 1),  # a kill that met nothing
        (3, 2, 0, 1, 0),  # time was over, or the machine cannot run the cell
        (3, 0, 0, 3, 1),
        (0, 0, 0, 0, 1),  # no cell has that name
    ],
)
def test_the_exit_code_counts_what_was_not_made(wanted, made, bad, excused, code):
    assert program.exit_code(wanted, made, bad, excused) == code
