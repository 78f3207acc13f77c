"""Which Ray a run uses: one of its own, or the one that is named; and that its start can be interrupted."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest import mock

import grpc
import psutil
import pytest
import ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from rich.console import Console
from tiny_policy import write_experiment

from envs.errors import InputError
from pipeline.doctor.machine import ray_cluster
from pipeline.experiment.experiment import load_experiments
from pipeline.ray_address import knock, named_cluster
from pipeline.training.launch import LaunchOptions, launch
from pipeline.training.plan import goes_with_the_job
from pipeline.training.ray_processes.cluster import (
    RayOptions,
    asked_resources,
    missing_resources,
    not_started,
    starting_ray,
)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch, tmp_path):
    """No Ray is running, and `ray.init` says with what it was called."""
    called = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", frozenset)
    monkeypatch.setattr("ray._private.services.resolve_ip_for_localhost", lambda host: host)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **arguments: called.update(arguments))
    return called


def start_ray(options):
    with starting_ray(options):
        pass


@contextmanager
def cluster(version: str = ray.__version__, token: str | None = None):
    """What answers as a cluster's control service, asked for its health, does; yields HOST:PORT."""

    class Service(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
        def CheckAlive(self, request, context):
            if token and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: missing or incorrect")
            return gcs_service_pb2.CheckAliveReply(ray_version=version)

    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def tokens(tmp_path):
    """Sets Ray's variables of tokens, and lets Ray read them; there is no token in the home folder."""
    from ray._raylet import AuthenticationTokenLoader, Config

    def read():
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    def set_variables(**variables):
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)
        os.environ.update(variables)
        read()

    with mock.patch.dict(os.environ, HOME=str(tmp_path)):
        set_variables()
        yield set_variables
    read()


@contextmanager
def listening(answer: bytes | None):
    """A server that answers every greeting with `answer`, or closes at once (None); yields HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        if answer is not None:
                            connection.recv(64)
                            connection.sendall(answer)
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


GRPC = bytes([0, 0, 0x18, 4, 0, 0, 0, 0, 0])
"""What greets as gRPC does, and says no more."""


def dead_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    "typed, variable, expected",
    [
        (None, None, None),
        (None, "", None),
        (None, "h:1", "RAY_ADDRESS=h:1"),
        ("g:2", "h:1", "--ray-address g:2"),
        ("auto", "h:1", "RAY_ADDRESS=h:1"),
        ("auto", None, "--ray-address auto"),
        (None, "auto", "RAY_ADDRESS=auto"),
        ("local", "h:1", None),
        (None, "local", None),
    ],
)
def test_which_cluster_is_named(monkeypatch, typed, variable, expected):
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    found = named_cluster(typed)
    assert (found and str(found)) == expected
    assert (RayOptions(typed).cluster is not None) is (expected is not None)


@pytest.mark.parametrize("by", ["--ray-address ", "RAY_ADDRESS="])
@pytest.mark.parametrize("address", ["{dead}", "ray://{dead}"])
def test_an_address_where_no_ray_is(monkeypatch, no_ray, by, address):
    address, typed = address.format(dead=dead_address()), None
    if by == "RAY_ADDRESS=":
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        typed = address
    with pytest.raises(InputError) as refused:
        start_ray(RayOptions(typed))
    said = str(refused.value)
    assert said.startswith(f"{by}{address}: no Ray cluster can be joined there: Connection refused; ")
    assert ("unset RAY_ADDRESS" if typed is None else "leave --ray-address out") in said
    assert not no_ray


@pytest.mark.parametrize(
    "address, reason",
    [
        ("http://head:8265", "the address of a dashboard or of its jobs; a cluster's own is head:6379"),
        ("https://head", "a cluster's own is head:6379, or ray://head:10001 for Ray Client; start one"),
        ("head", "an address is written HOST:PORT"),
        ("head:99999", "an address is written HOST:PORT"),
        ("auto", "no Ray was started on this machine"),
    ],
)
def test_what_is_no_address_of_a_cluster(monkeypatch, address, reason):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"^RAY_ADDRESS={address}: .*{reason}"):
        start_ray(RayOptions())


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_what_listens_and_is_no_ray(answer):
    with listening(answer) as address, pytest.raises(InputError, match="does not answer as Ray does"):
        start_ray(RayOptions(address))


def test_what_greets_and_does_not_answer(monkeypatch):
    monkeypatch.setattr("pipeline.ray_address.SECONDS", 1.0)
    with listening(GRPC) as address, pytest.raises(InputError, match="no Ray cluster can be joined there: "):
        start_ray(RayOptions(address))


TOKEN, OTHER = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    "variables, reason",
    [
        ({}, "it wants a token, and none is sent: set RAY_AUTH_MODE=token, and put the cluster's into RAY_A"),
        ({"RAY_AUTH_TOKEN": TOKEN}, "none is sent: set RAY_AUTH_MODE=token, and put"),
        ({"RAY_AUTH_MODE": "token"}, "RAY_AUTH_MODE=token is set and there is no token: put the cluster's"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": OTHER}, "the token of RAY_AUTH_TOKEN is not its own: "),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, None),
    ],
)
@pytest.mark.parametrize("by", ["--ray-address ", "RAY_ADDRESS="])
def test_a_cluster_that_wants_a_token(monkeypatch, no_ray, tokens, variables, reason, by):
    tokens(**variables)
    with cluster(token=TOKEN) as address:
        typed = address if by == "--ray-address " else None
        if typed is None:
            monkeypatch.setenv("RAY_ADDRESS", address)
        if reason is None:
            start_ray(RayOptions(typed))
            assert no_ray["address"] == address
            return
        with pytest.raises(InputError) as refused:
            start_ray(RayOptions(typed))
    said = str(refused.value)
    assert said.startswith(f"{by}{address}: ") and reason in said and "\n" not in said
    assert TOKEN not in said and OTHER not in said and not no_ray


def test_auto_takes_the_token_of_this_machine(monkeypatch, no_ray, tokens, tmp_path):
    """As Ray does for `auto`; it gets the address from us."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    tokens()
    with cluster(token=TOKEN) as address:
        monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda auto: address)
        start_ray(RayOptions("auto"))
        assert no_ray["address"] == address
        tokens()
        with pytest.raises(InputError, match="none is sent: set RAY_AUTH_MODE=token"):
            start_ray(RayOptions(address))


def test_a_cluster_of_another_version():
    with (
        cluster("2.40.0") as address,
        pytest.raises(InputError, match="runs Ray 2.40.0, this process has"),
    ):
        start_ray(RayOptions(address))


def test_a_named_cluster_is_joined(monkeypatch, no_ray):
    with cluster() as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        start_ray(RayOptions())
        assert no_ray["address"] == address and "num_cpus" not in no_ray
        assert "answers; not looked at: its version, CPUs" in ray_cluster(None).message
        with pytest.raises(InputError, match=f"not for one at RAY_ADDRESS={address}"):
            RayOptions(num_cpus=2)


@pytest.mark.parametrize("is_alive", [False, True])
def test_a_cluster_that_nobody_named_is_not_joined(no_ray, tmp_path, is_alive):
    """Ray itself joins what `ray start` left in this file, and waits for ever where it is gone."""
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    with cluster() as alive:
        file.write_text(alive if is_alive else dead_address())
        start_ray(RayOptions(num_cpus=3))
        assert (no_ray["address"], no_ray["num_cpus"]) == ("local", 3)
        named = named_cluster("auto")
        if is_alive:
            assert knock(named) == alive
        else:
            with pytest.raises(
                InputError, match=f"^--ray-address auto: .* {file.read_text()}: Connection refu"
            ):
                knock(named)
    assert (
        "a run starts a Ray of its own; not looked at: a cluster of --ray-address"
        in ray_cluster(None).message
    )


def test_custom_resources_that_ray_does_not_have_are_named(monkeypatch):
    """Ray would wait for them without end."""
    changes = ["custom_resources_per_env_runner={rack: 1}", "custom_resources_per_learner={rack: 0.5}"]
    (experiment,) = load_experiments("conf/igpo.yaml", [*changes, "num_env_runners=2", "num_learners=2"])
    config = experiment.algorithm_config()
    assert asked_resources(config)["rack"] == 3
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0, "rack": 2.0})
    assert missing_resources(config) == "2 env runners and 2 learners ask for 3 of `rack`, and Ray has 2"


def test_shares_that_fill_the_gpus_are_not_too_many(monkeypatch):
    shares = [
        "num_gpus_per_env_runner=0.8",
        "num_gpus_per_learner=0.2",
        "num_env_runners=3",
        "num_learners=3",
    ]
    (experiment,) = load_experiments("conf/igpo.yaml", shares)
    config = experiment.algorithm_config()
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0, "GPU": 3.0})
    assert asked_resources(config)["GPU"] == 3 and missing_resources(config) is None


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_joined_cluster_may_have_what_this_machine_lacks(monkeypatch, tmp_path, by):
    monkeypatch.setattr("pipeline.training.launch.configure_ray_logging", lambda verbosity: None)

    def note(*_, **told):
        seen.append(told)

    def start(*_):
        raise InputError("here")

    seen: list[dict] = []
    monkeypatch.setattr("pipeline.training.launch.check_plan", note)
    monkeypatch.setattr("pipeline.training.launch.check_resources", note)
    monkeypatch.setattr("pipeline.training.launch._start", start)
    experiments = load_experiments(write_experiment(tmp_path / "demo.yaml", "tiny"))
    with cluster() as address, pytest.raises(InputError, match="here"):
        if by == "variable":
            monkeypatch.setenv("RAY_ADDRESS", address)
        options = RayOptions(address if by == "option" else None)
        launch(experiments, LaunchOptions(("rllib",), ray=options), Console(file=io.StringIO()))
    assert seen == [{"joins_cluster": True}, {"may_grow": True}]


WAITS = """
import atexit, os, signal, subprocess, sys, threading, time
from pipeline.training.ray_processes.cluster import RayOptions, starting_ray
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
starts = threading.Event()

def init(**arguments):
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
    starts.set()
    {wait}

import ray
ray.init = init
ray.is_initialized = lambda: False
try:
    with starting_ray(RayOptions()):
        starts.wait()
        {meanwhile}
except (KeyboardInterrupt, LookupError):
    print("told", flush=True)
    atexit._run_exitfuncs()
    os._exit(7)
"""


IN_C = (
    "import ctypes; mutex, lock = ctypes.create_string_buffer(128), ctypes.CDLL(None).pthread_mutex_lock; "
    "lock(mutex); lock(mutex)"
)


@contextmanager
def ray_that_waits(wait, meanwhile):
    """A process whose Ray never gets further than its first process; gives both."""
    code = WAITS.format(wait=wait, meanwhile=meanwhile)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, psutil.Process(int(process.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", ["time.sleep(60)", IN_C], ids=["python", "c"])
@pytest.mark.parametrize("meanwhile", ["pass", "time.sleep(60)"], ids=["waits", "checks"])
def test_a_signal_is_heard_while_ray_starts(number, wait, meanwhile):
    with ray_that_waits(wait, meanwhile) as (process, started):
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(20) == 7
        assert process.stdout.read() == "told\n"
    started.wait(20)  # nothing of that Ray is left


def test_what_is_wrong_is_told_while_ray_starts():
    """A mistake found beside its start does not wait for it."""
    with ray_that_waits("time.sleep(60)", "raise LookupError") as (process, started):
        assert process.wait(20) == 7
        assert process.stdout.read() == "told\n"
    started.wait(20)  # nothing of that Ray is left


def test_a_ray_that_does_not_start_is_told_in_one_sentence():
    late = "The current node timed out during startup. This could happen because some of the raylet failed"
    assert not_started(late) == (
        "Ray can't be started on this machine: The current node timed out during startup: the machine is too "
        "busy or short of memory, so try again when it is less busy."
    )
    assert not_started("No space") == (
        "Ray can't be started on this machine: No space: it may be short of CPU or memory; `rllib train file "
        "... -v` shows Ray's own log."
    )


def test_a_submitted_job_is_warned_of_runs_that_go_with_its_folder(tmp_path, monkeypatch):
    unpacked = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_1f"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)

    def warning(storage_path):
        path = write_experiment(tmp_path / "demo.yaml", "policy")
        path.write_text(path.read_text().replace(str(tmp_path / "runs"), storage_path))
        (experiment,) = load_experiments(path)
        return goes_with_the_job(experiment)

    assert warning("runs") == (
        "storage_path runs lies in the folder that Ray unpacked for this job and may remove afterwards: "
        "set storage_path to a folder that all nodes share, or to a bucket (s3://BUCKET/runs)"
    )
    assert warning(str(tmp_path / "runs")) is None
    assert warning("s3://bucket/runs") is None
    monkeypatch.chdir(tmp_path)
    assert warning("runs") is None
