"""A run whose own Ray loses its gcs_server or raylet: one sentence, the right exit code, and it goes on."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from command import Command
from ray.exceptions import ObjectReconstructionFailedError, RayActorError
from tiny_policy import write_experiment, write_policy

from algorithms.igpo.remote import StartError
from pipeline.training.failures import in_words, lost_learner
from pipeline.training.ray_processes import watch as ray_watch
from pipeline.training.ray_processes.cluster import RayOptions, RayStart, starting_ray
from pipeline.training.ray_processes.watch import (
    RayLostError,
    lost_ray,
    remember_ray,
    watched_ray,
)


@pytest.fixture
def parts(tmp_path):
    """Processes of this one that are called as Ray's are."""
    started = {}
    for name in ray_watch.PARTS:
        shutil.copy(shutil.which("sleep"), tmp_path / name)
        started[name] = subprocess.Popen([tmp_path / name, "60"])
    deadline = time.monotonic() + 10
    while not all(psutil.Process(process.pid).name() == name for name, process in started.items()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    remember_ray()
    yield started
    for process in started.values():
        process.kill()
        process.wait()
    ray_watch._started.clear()


@pytest.mark.parametrize("name", ray_watch.PARTS)
def test_a_part_that_ends_is_told_in_the_main_thread(parts, name):
    assert lost_ray() is None
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(RayLostError, match=f"^Ray's process {name} has ended "), watched_ray():
        parts[name].kill()
        time.sleep(30)
    assert lost_ray() and signal.getsignal(signal.SIGUSR1) == before


def test_a_part_that_ends_while_ray_starts_is_told(parts, monkeypatch):
    """Ray would wait for it a minute, and then end the process from C++."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: threading.Event().wait())
    monkeypatch.setattr(RayStart, "abandon", lambda self: self.ended.set())
    with (
        pytest.raises(RayLostError, match="^Ray's process gcs_server has ended "),
        watched_ray(),
        starting_ray(RayOptions()),
    ):
        while "gcs_server" not in ray_watch._started:
            time.sleep(0.01)
        parts["gcs_server"].kill()


def test_an_error_that_follows_from_it_is_told_by_its_cause(parts):
    with pytest.raises(RayLostError, match="^Ray's process raylet has ended ") as caught, watched_ray():
        parts["raylet"].kill()
        parts["raylet"].wait()
        raise ConnectionError("some actor died")
    assert isinstance(caught.value.__cause__, ConnectionError)
    with pytest.raises(KeyError), watched_ray():
        ray_watch._started.clear()
        raise KeyError("another fault")


@pytest.mark.parametrize(
    "lost", [RayActorError(), ObjectReconstructionFailedError("5f70")], ids=["actor", "weights"]
)
def test_an_actor_s_death_is_told_as_a_learner_s(lost):
    """Or that of the weights on its node, which the env runners were about to load."""
    try:
        raise RuntimeError("the update failed") from lost
    except RuntimeError as error:
        told = lost_learner(error)
    assert told is not None and told.startswith("a learner is lost: its process was killed or")
    assert lost_learner(RuntimeError("another fault")) is None


def test_an_engine_that_cannot_start_is_told_by_its_cause_and_not_as_a_loss(tmp_path):
    """As where vLLM's warm-up on a GPU imported a package that was not there."""
    try:
        raise StartError("env runner 1 did not start: No module named 'torchvision'") from RayActorError()
    except StartError as error:
        assert lost_learner(error) is None
        assert in_words(error, tmp_path) == "env runner 1 did not start: No module named 'torchvision'"


def test_what_ends_after_the_block_is_not_raised(parts):
    with watched_ray():
        pass
    parts["raylet"].kill()
    time.sleep(3 * ray_watch.INTERVAL)
    assert "raylet" in lost_ray()


def test_another_sender_s_signal_goes_to_its_own_handler(parts):
    """Slurm sends SIGUSR1 before a job's end, if it is asked to."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        with watched_ray():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1] * 2


def test_a_cluster_that_was_joined_is_not_watched():
    remember_ray()
    assert lost_ray() is None
    with watched_ray():
        time.sleep(2 * ray_watch.INTERVAL)


LEAVES = """
import atexit, os, shutil, subprocess, sys, time
from pathlib import Path
from pipeline.logging import native_stderr_to
from pipeline.training.ray_processes import watch as ray_watch
atexit.register(lambda: os._exit(99))  # as Ray's own farewell
started = [subprocess.Popen([sys.argv[1] + "/" + name, "60"]) for name in ray_watch.PARTS]
time.sleep(0.5)
ray_watch.remember_ray()
ray_watch.leave_lost_ray(0)  # nothing is lost: it goes on
print("here", started[1].pid, flush=True)
started[0].kill()
ray_watch.STUCK = 0.3
if sys.argv[2] == "c":
    import ctypes
    mutex, lock = ctypes.create_string_buffer(128), ctypes.CDLL(None).pthread_mutex_lock
    with native_stderr_to(Path(sys.argv[1], "native.log")), ray_watch.watched_ray():
        lock(mutex); lock(mutex)
if sys.argv[2] == "caught":
    with ray_watch.watched_ray():
        try:
            time.sleep(60)
        except Exception:
            time.sleep(60)
time.sleep(0.1)
ray_watch.leave_lost_ray(0)
"""


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("waits, code", [("python", 0), ("c", 1), ("caught", 1)])
def test_a_process_leaves_with_its_own_exit_code(tmp_path, waits, code):
    """Whatever Ray does at the end of the interpreter; and where Ray waits in C++ and no Python runs."""
    for name in ray_watch.PARTS:
        shutil.copy(shutil.which("sleep"), tmp_path / name)
    command = [sys.executable, "-c", LEAVES, str(tmp_path), waits]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == code, process.stderr
    if code:
        assert "the run failed: Ray's process gcs_server has ended" in process.stderr
        assert "--resume goes on" in process.stderr
    deadline = time.monotonic() + 10
    while is_running(int(process.stdout.split()[1])):
        assert time.monotonic() < deadline, "it left a process behind"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ray_watch.PARTS)
def test_a_run_that_loses_its_ray_says_so_and_goes_on(tmp_path, name):
    write_experiment(
        tmp_path / "demo.yaml",
        write_policy(tmp_path / "policy"),
        evaluation_interval=0,
        num_env_runners=0,
        engine={"kind": "transformers", "max_num_seqs": 32},
    )
    command = ("train", "file", "demo.yaml", "--stop", '{"training_iteration": 1000}')
    run = Command(tmp_path, *command)
    run.wait_for_iteration(after=1)
    left = run.descendants("")
    (part,) = [process for process in left if process.name() == name]
    part.kill()
    assert run.end(60) == 1, run.said
    assert f"the run failed: Ray's process {name} has ended" in run.said, run.said
    assert "Traceback" not in run.said and "--resume" in run.said.split("go on")[-1]
    assert not psutil.wait_procs(left, timeout=30)[1], "it left processes behind"
    (path,) = tmp_path.glob("runs/demo/*/run.json")
    assert json.loads(path.read_text())["status"] == "failed"
    saved = json.loads((path.parent / "checkpoints/last/igpo_checkpoint.json").read_text())["iteration"]
    again = Command(tmp_path, *command[:-1], json.dumps({"training_iteration": saved + 1}), "--resume")
    assert again.end() == 0, again.said
    assert again.iterations == [saved + 1]
