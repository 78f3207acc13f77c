"""`igpo verify`: equal, different, and not to be verified; the slow ones through the real command line."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Command
from tiny_policy import write_experiment, write_policy

from pipeline.cli.igpo import app
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.ray_processes.watch import RayLostError
from pipeline.verification.rerun import Verdict
from pipeline.verification.same_rows import Difference, Sameness
from pipeline.verification.starting_points import Rerun

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def verified(run, tmp_path, monkeypatch):
    """`igpo verify RUN` whose rerun has this outcome, without Ray: (exit code, what it said)."""
    directory = RunDirectory.create(tmp_path / "runs", "demo", {})
    (directory.path / "rollouts/manifest.json").write_text('{"schema_version": 1, "run_id": "x"}')
    found = Rerun(directory, SimpleNamespace(config=None), None, 0, 1, True, set())
    monkeypatch.setattr("pipeline.verification.starting_points.plan_rerun", lambda *_: found)
    monkeypatch.setattr("pipeline.verification.what_changed.what_changed", lambda *_: ["torch: 1.0, now 2.0"])
    for name in ("check_plan", "check_resources"):
        monkeypatch.setattr(f"pipeline.training.plan.{name}", lambda *_, **__: None)
    started = nullcontext(SimpleNamespace(wait=lambda: None))
    monkeypatch.setattr("pipeline.training.ray_processes.cluster.starting_ray", lambda *_: started)

    def call(outcome):
        def rerun(*_):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr("pipeline.verification.rerun.rerun", rerun)
        return run("verify", directory.path, app=app)

    return call


def test_equal_ends_with_0(verified):
    code, said = verified(Verdict(Sameness({"turns": 1428, "tokens": 0}, {"turns": 0, "tokens": 0}), (20, 0)))
    assert code == 0 and "turns 1,428 0 weights 20 0 equal to the last bit" in said, said
    assert "run again from its first weights" in said and "tokens" not in said


def test_different_ends_with_1_and_the_first_difference(verified):
    first = Difference(1, "train", "turns", ("r1", 0), "advantage", 0.5, 0.75)
    code, said = verified(Verdict(Sameness({"turns": 9}, {"turns": 1}, first), None))
    where = "different: iteration 1 (train), turns, episode_id r1, turn_index 0, advantage: 0.5, now 0.75"
    assert code == 1 and where in said, said
    assert "weights: not compared" in said and "changed since the run began: torch: 1.0, now 2.0" in said


def test_weights_alone_may_differ(verified):
    code, said = verified(Verdict(Sameness({"turns": 9}, {"turns": 0}), (20, 1)))
    assert code == 1 and "different: the rows are equal, the weights after the update are not" in said, said


def test_interrupted_and_without_ray(verified):
    assert verified(KeyboardInterrupt())[0] == 130
    code, said = verified(RayLostError("Ray's process raylet has ended"))
    assert code == 2 and "cannot be verified: Ray's process raylet has ended; give the same" in said, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of three iterations, of which the second was begun by a resumed attempt."""
    folder = tmp_path_factory.mktemp("verify")
    write_experiment(
        folder / "demo.yaml",
        write_policy(folder / "policy"),
        evaluation_interval=100,
        evaluation_questions=10,
        log_tokens=True,
        num_env_runners=0,
        engine={"kind": "transformers", "max_num_seqs": 32},
    )
    train = ("train", "file", "demo.yaml", "--keep-checkpoints-num", "3")
    first = Command(folder, *train, "--stop", '{"training_iteration": 1000}', environment=ONE_THREAD)
    first.wait_for("iteration 1/")
    assert first.interrupt() == 130, first.said
    last = max(first.iterations) + 2
    stop = json.dumps({"training_iteration": last})
    second = Command(folder, *train, "--stop", stop, "--resume", environment=ONE_THREAD)
    assert second.end() == 0, second.said
    return folder


def verify(folder, *options):
    command = Command(folder, "verify", "demo", *options, module="pipeline.cli.igpo", environment=ONE_THREAD)
    return command.end(), command.said


def the_run(folder):
    (path,) = folder.glob("runs/demo/*/run.json")
    return path.parent


@pytest.mark.slow
def test_a_run_is_equal_to_itself(folder):
    """From its last checkpoint, and from the first weights with the evaluation before training."""
    for options in ((), ("--after", "0", "--iterations", "2")):
        code, said = verify(folder, *options)
        assert code == 0 and "equal to the last bit" in said, said
        assert "weights" in said and "tokens" in said and "not compared" not in said
    assert json.loads((the_run(folder) / "run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_the_first_difference_is_shown(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    log = the_run(tmp_path / "copy") / "rollouts"
    manifest = json.loads((log / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["table"] == "turns":
            turns = pq.read_table(log / file["path"])
            place = turns.column_names.index("advantage")
            more = [value if value is None else value + 1.0 for value in turns["advantage"].to_pylist()]
            changed = turns.set_column(place, turns.field(place), pa.array(more, pa.float64()))
            pq.write_table(changed, log / file["path"])
            file["bytes"] = (log / file["path"]).stat().st_size
    (log / "manifest.json").write_text(json.dumps(manifest))
    code, said = verify(tmp_path / "copy")
    assert code == 1 and "different: iteration" in said and "turns, episode_id" in said, said
    assert ", advantage: " in said and "changed since the run began: " in said


@pytest.mark.slow
def test_what_cannot_be_verified(folder):
    code, said = verify(folder, "--after", "77")
    assert code == 2 and "keeps no checkpoint of iteration 77" in said and "Traceback" not in said, said
