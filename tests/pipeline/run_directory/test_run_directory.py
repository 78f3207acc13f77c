"""Run directories are never shared or overwritten, and a killed run can be found again."""

import json
import os
import subprocess
import sys

import pytest

from envs.errors import InputError
from pipeline.run_directory.checkpoints import NOTE, Checkpoints, read_note
from pipeline.run_directory.directory import RunDirectory


class Saver:
    def __init__(self, fail=False):
        self.fail, self.saves = fail, 0

    def save_to_path(self, path):
        self.saves += 1
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "weights"), "w") as file:
            file.write(str(self.saves))
        if self.fail:
            raise OSError("disk full")


def make(tmp_path, **facts):
    return RunDirectory.create(tmp_path, "demo", {"demo": {"run": "IGPO", "config": {"lr": 0.1}}}, facts)


def test_a_new_directory_each_time(tmp_path):
    first, second = make(tmp_path), make(tmp_path)
    assert first.path != second.path
    assert first.path.parent == tmp_path / "demo" and first.run_id == first.path.name
    assert first.resolved == {"demo": {"run": "IGPO", "config": {"lr": 0.1}}}
    assert all(part.is_dir() for part in (first.checkpoints, first.rollouts, first.logs))


def test_the_metadata_of_attempts(tmp_path):
    run = make(tmp_path)
    assert run.begin_attempt(None) == 1
    assert run.begin_attempt(4) == 2
    run.end_attempt("interrupted", 6)
    died, ended = run.metadata["attempts"]
    assert died["how"] == "died" and died["ended"] is not None and died["resumed_from_iteration"] is None
    assert ended["how"] == "interrupted" and ended["resumed_from_iteration"] == 4 and ended["iteration"] == 6
    assert run.metadata["status"] == "interrupted"


def test_runs_are_found_by_age(tmp_path):
    assert RunDirectory.find(tmp_path, "demo") == []
    runs = [make(tmp_path), make(tmp_path), make(tmp_path)]
    assert [run.path for run in RunDirectory.find(tmp_path, "demo")] == [run.path for run in runs]


def test_a_run_killed_while_it_was_made_hides_no_other(tmp_path):
    run, killed = make(tmp_path), make(tmp_path)
    killed.metadata_path.unlink()
    assert [found.path for found in RunDirectory.find(tmp_path, "demo")] == [run.path]


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    run = make(tmp_path)
    code = (
        "import sys\nfrom pipeline.run_directory.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdin=-1, stdout=-1, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {other.pid} works in"), run.lock():
        pass
    other.kill()
    other.wait()
    with run.lock():
        pass


def test_a_folder_without_metadata_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run directory"):
        RunDirectory(tmp_path)


def test_rolling_last_and_best(tmp_path):
    checkpoints, saver = Checkpoints(tmp_path), Saver()
    assert checkpoints.last is None and checkpoints.best is None
    for iteration in range(1, 6):
        checkpoints.save(saver, iteration, {"best_score": 0.5}, best=iteration == 2)
    assert (
        checkpoints.last == tmp_path / "iteration_000005"
        and checkpoints.best == tmp_path / "iteration_000002"
    )
    assert sorted(path.name for path in tmp_path.glob("iteration_*")) == [
        "iteration_000002",
        "iteration_000005",
    ]
    assert read_note(checkpoints.last)["iteration"] == 5 and read_note(tmp_path / "best")["best_score"] == 0.5
    assert not os.path.isabs(os.readlink(tmp_path / "last"))


def test_numbered_checkpoints_are_kept_as_asked(tmp_path):
    for keep, expected in ((3, 3), (None, 6)):
        folder = tmp_path / str(keep)
        folder.mkdir()
        for iteration in range(1, 7):
            Checkpoints(folder, keep).save(Saver(), iteration, {})
        assert len(list(folder.glob("iteration_*"))) == expected


def test_an_iteration_already_saved_is_not_saved_again(tmp_path):
    checkpoints, saver = Checkpoints(tmp_path), Saver()
    checkpoints.save(saver, 1, {})
    checkpoints.save(saver, 1, {}, best=True)
    assert saver.saves == 1 and checkpoints.best == checkpoints.last


def test_a_save_that_fails_leaves_the_last_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Saver(), 1, {})
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(Saver(fail=True), 2, {})
    assert checkpoints.last == tmp_path / "iteration_000001"
    checkpoints.save(Saver(), 2, {})
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_leftover_of_a_dead_attempt_is_replaced(tmp_path):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(Saver(), 1, {})
    leftover = tmp_path / "iteration_000002"
    leftover.mkdir()
    (leftover / "old").write_text("x")
    checkpoints.save(Saver(), 2, {})
    assert not (leftover / "old").exists() and checkpoints.last == leftover


def test_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        read_note(tmp_path / "absent")
    with pytest.raises(InputError, match="not an IGPO checkpoint"):
        read_note(tmp_path)
    (tmp_path / NOTE).write_text(json.dumps({"algorithm": "PPO", "schema_version": 1}))
    with pytest.raises(InputError, match="checkpoint of PPO"):
        read_note(tmp_path)
    (tmp_path / NOTE).write_text(json.dumps({"algorithm": "IGPO", "schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99"):
        read_note(tmp_path)


def test_what_a_checkpoint_builds_on_is_waited_for_before_it_counts(tmp_path):
    checkpoints, names = Checkpoints(tmp_path, None), []
    for iteration in (1, 1):
        checkpoints.save(
            Saver(),
            iteration,
            {},
            before_it_counts=lambda: names.append(sorted(p.name for p in tmp_path.iterdir())),
        )
    assert [len(each) for each in names] == [1, 2] and names[0][0].startswith(".iteration_000001.")
    assert names[1] == ["iteration_000001", "last"]

    def fail():
        raise OSError("the log is full")

    with pytest.raises(OSError):
        checkpoints.save(Saver(), 2, {}, before_it_counts=fail)
    assert checkpoints.last.name == "iteration_000001"
