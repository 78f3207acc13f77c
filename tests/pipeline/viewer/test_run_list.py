"""`igpo runs`: what a line says of a run, and of one that is damaged."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pipeline.cli.igpo import app
from pipeline.evaluation.heldout_scores import Score, save_scores
from pipeline.run_directory.directory import HELDOUT_BEFORE, HELDOUT_LAST, RunDirectory
from pipeline.viewer.run_list import runs_in


@pytest.fixture
def runs(tmp_path):
    config = {"config": {"preset": "igpo"}}
    first = RunDirectory.create(tmp_path, "igpo", {"igpo": config}, {"created": "2026-01-01T10:00:00+00:00"})
    save_scores(first.path / HELDOUT_BEFORE, 0, {"a": Score(0.0, 0.5), "b": Score(1.0, 1.0)})
    save_scores(first.path / HELDOUT_LAST, 3, {"a": Score(1.0, 1.0), "b": Score(1.0, 1.0)})
    first.note(status="finished", iteration=3)
    facts = {
        "created": "2026-01-02T10:00:00+00:00",
        "preset": "grpo",
        "command": ["rllib", "train", "file", "x.yaml", "--set", "preset=grpo", "--set=seed=1"],
        "label": "lr=0.1",
    }
    RunDirectory.create(tmp_path, "igpo-grpo", {"igpo-grpo": config}, facts)
    return tmp_path


def test_runs_are_listed_newest_first_with_what_they_reached(runs):
    newest, oldest = runs_in(runs)
    assert (newest.name, newest.preset, newest.status) == ("igpo-grpo", "grpo", "new")
    assert (newest.em_before, newest.em_after) == (None, None)
    assert newest.set == ("preset=grpo", "seed=1", "lr=0.1")
    assert (oldest.name, oldest.preset, oldest.status, oldest.iteration) == ("igpo", "igpo", "finished", 3)
    assert (oldest.em_before, oldest.em_after) == (0.5, 1.0)
    assert [run.name for run in runs_in(runs, "igpo")] == ["igpo"]


def test_a_run_whose_process_was_killed_is_not_running(runs):
    (folder,) = (runs / "igpo").iterdir()
    run = RunDirectory(folder)
    run.begin_attempt(None)
    assert runs_in(runs, "igpo")[0].status == "died"
    with run.lock():
        assert runs_in(runs, "igpo")[0].status == "running"
    run.end_attempt("interrupted", 1)
    assert runs_in(runs, "igpo")[0].status == "interrupted"


@pytest.mark.parametrize("columns", ["80", "120"])
def test_names_and_ids_are_whole(runs, columns):
    shown = CliRunner().invoke(app, ["runs", "--runs-dir", str(runs)], env={"COLUMNS": columns}).output
    for run in runs_in(runs):
        assert run.name in shown and run.run_id in shown


def test_the_id_is_shown_beside_a_long_preset_in_a_pipe_of_80_columns(runs):
    (folder,) = (runs / "igpo").iterdir()
    RunDirectory(folder).note(preset="my_package.my_credit_module:an_estimator_of_my_own")
    shown = CliRunner().invoke(app, ["runs", "--runs-dir", str(runs)], env={"COLUMNS": "80"}).output
    assert all(run.run_id in shown for run in runs_in(runs))
    assert max(map(len, shown.splitlines())) <= 80
    assert "EM before ┃ after" in shown and "┃    EM ┃" in shown  # EM stands over after
    assert "…:an_estimator_of_my_own" in shown or "preset" in shown.splitlines()[-1]
    wide = CliRunner().invoke(app, ["runs", "--runs-dir", str(runs)], env={"COLUMNS": ""}).output
    assert "EM after" in wide and "preset=grpo, seed=1, lr=0.1" in wide


def test_what_every_run_set_is_said_once(runs):
    (first,) = (runs / "igpo").iterdir()
    RunDirectory(first).note(command=["rllib", "--set", "seed=1", "--set", "preset=igpo"])
    lines = (
        CliRunner().invoke(app, ["runs", "--runs-dir", str(runs)], env={"COLUMNS": ""}).output.splitlines()
    )
    assert lines[-1] == "set in every run: seed=1"
    assert "│ preset=grpo, lr=0.1 │" in lines[3] and "│ preset=igpo         │" in lines[4]
    (one,) = runs_in(runs, "igpo")
    assert one.set == ("seed=1", "preset=igpo")
    alone = CliRunner().invoke(app, ["runs", "igpo", "--runs-dir", str(runs)], env={"COLUMNS": ""}).output
    assert "seed=1, preset=igpo" in alone and "every run" not in alone


def test_a_damaged_run_is_listed_as_such(runs):
    (folder,) = (runs / "igpo").iterdir()
    (folder / "run.json").write_text("{")
    (damaged,) = runs_in(runs, "igpo")
    assert damaged.status.startswith("damaged: ") and damaged.run_id == folder.name


def test_a_name_without_runs_says_how_to_list_those_that_there_are(runs):
    result = CliRunner().invoke(app, ["runs", "nope", "--runs-dir", str(runs)])
    said = f"no run in {runs / 'nope'}: `igpo runs` without a name lists those that there are."
    assert (result.exit_code, result.stderr) == (2, f"error: {said}\n")


def test_no_run_is_one_sentence(tmp_path):
    result = CliRunner().invoke(app, ["runs", "--runs-dir", str(tmp_path)])
    assert result.exit_code == 2 and "no run in" in result.stderr
