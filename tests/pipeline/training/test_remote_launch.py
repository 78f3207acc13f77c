"""`rllib train file` with a URL for `storage_path`: the run is uploaded after each checkpoint and at its end,
and fetched before another machine resumes it.
"""

import io
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pyarrow.fs
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from rich.console import Console
from tiny_policy import write_experiment, write_policy

from envs.errors import InputError
from pipeline.exit_codes import FAILED
from pipeline.experiment.experiment import load_experiments
from pipeline.run_directory import object_store
from pipeline.run_directory.checkpoints import Checkpoints
from pipeline.training.launch import LaunchOptions, launch
from pipeline.training.loop import Ending
from pipeline.training.remote_runs import upload_after_saving

URL = "s3://bucket/lab"

STARTED = SimpleNamespace(wait=lambda: None)
"""A Ray that is there."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def train(tmp_path, policy, monkeypatch):
    """Makes an attempt on a machine that saves `iterations` and then ends as `how` says.

    Returns the exit code, what was said, and the iteration that the attempt went on from.
    """
    (tmp_path / "store").mkdir()
    store = DirFileSystem(str(tmp_path / "store"), LocalFileSystem(auto_mkdir=True))
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(store))
    monkeypatch.setattr(object_store, "open_filesystem", lambda url: (filesystem, "lab"))
    monkeypatch.setattr("pipeline.training.launch.configure_ray_logging", lambda verbosity: None)
    monkeypatch.setattr("pipeline.training.launch.starting_ray", lambda *_: nullcontext(STARTED))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.chdir(tmp_path)
    file = write_experiment(tmp_path / "demo.yaml", policy)

    def attempt(machine, iterations, how="finished", resume=False):
        monkeypatch.setenv("IGPO_CACHE", str(tmp_path / machine))
        seen = []

        progress = SimpleNamespace(message=lambda text, style: None)

        def _train(plan, run, checkpoint, resumed_from, console):
            seen.append(resumed_from)
            run.begin_attempt(resumed_from)
            for iteration in iterations:

                def save(path, iteration=iteration):
                    with open(f"{path}/weights", "w") as weights:
                        weights.write(f"weights of {iteration}")

                saver, checkpoints = SimpleNamespace(save_to_path=save), Checkpoints(run.checkpoints)
                checkpoints.save(saver, iteration, {"run_id": run.run_id}, best=True)
                upload_after_saving(plan.experiment.remote, run, progress)
                run.note(iteration=iteration)
            if how == "died":
                raise ConnectionError("the power went off")
            if how == "refused":
                raise InputError("GPU 0: 3.0 GiB are free.")
            run.end_attempt(how, iterations[-1])
            run.note(mlflow_ui="")
            return Ending(how, "", iterations[-1])

        monkeypatch.setattr("pipeline.training.launch._train", _train)
        said = io.StringIO()
        experiments = load_experiments(file, [f"storage_path={URL}"])
        options = LaunchOptions(("rllib",), resume=resume)
        code = launch(experiments, options, Console(file=said, width=300))
        return code, said.getvalue(), seen

    attempt.store = tmp_path / "store" / "lab"
    attempt.here = tmp_path
    return attempt


def test_a_run_that_died_goes_on_on_another_machine(train):
    code, said, seen = train("one", [1, 2], how="died")
    assert (code, seen) == (FAILED, [None]) and f"uploaded       {URL} (demo/" in said
    (run,) = (train.store / "demo").iterdir()
    assert json.loads((run / "snapshot.json").read_text())["links"]["checkpoints/last"] == "iteration_000002"
    code, said, seen = train("two", [3], resume=True)
    assert (code, seen) == (0, [2]), said
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert [attempt["how"] for attempt in json.loads((run / "run.json").read_text())["attempts"]] == [
        "died",
        "finished",
    ]
    assert (run / "checkpoints" / "iteration_000003" / "weights").read_text() == "weights of 3"
    with pytest.raises(InputError, match=r"--resume: the newest run, .*, is finished"):
        train("one", [4], resume=True)
    assert not list(train.here.glob("s3:*")) and not (train.here / "runs").exists()


def test_what_an_engine_refuses_in_the_middle_of_a_run_does_not_leave_the_run_behind(train):
    """As a runner that is started again finds: another process has taken its GPU's memory."""
    code, said, _ = train("one", [1, 2], how="refused")
    assert code == FAILED and "the run failed: GPU 0: 3.0 GiB are free." in said
    assert "go on          rllib --resume" in said and f"uploaded       {URL} (demo/" in said
    with pytest.raises(InputError, match="GPU 0: 3.0 GiB are free"):
        train("one", [], how="refused", resume=True)


def test_a_run_that_cannot_be_uploaded_goes_on_and_says_so_at_its_end(train, monkeypatch):
    def fails(self, path, target):
        raise OSError("SLOW_DOWN")

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setattr(object_store.ObjectStore, "send", fails)
    code, said, _ = train("one", [1, 2])
    assert code == FAILED
    assert "not uploaded: run " in said and "(SLOW_DOWN); it is whole in " in said and "evaluate" in said


def test_a_place_that_cannot_be_written_ends_the_command_before_anything_starts(train, monkeypatch):
    def fails(self, path, content):
        raise OSError("ACCESS_DENIED")

    monkeypatch.setattr(object_store.ObjectStore, "_write", fails)
    with pytest.raises(InputError, match="s3://bucket/lab: nothing can be written there: ACCESS_DENIED"):
        train("one", [1])
    assert not (train.here / "one" / "runs").exists()
