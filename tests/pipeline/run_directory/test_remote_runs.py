"""Runs in a bucket: uploaded whole, killed in the middle, resumed on another machine. The bucket is a folder
behind pyarrow's own interface, and where their servers are installed (`bucket_servers`), moto's S3 and an
emulated Google Cloud Storage.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pyarrow
import pyarrow.fs
import pytest
from bucket_servers import google, google_credentials, moto

from envs.errors import InputError
from pipeline.experiment.experiment import load_experiments
from pipeline.run_directory import object_store, remote
from pipeline.run_directory.checkpoints import Checkpoints
from pipeline.run_directory.directory import RunDirectory
from pipeline.run_directory.object_store import ObjectStore
from pipeline.run_directory.remote import RemoteRuns, TakenOverError, UploadError, local_mirror

URL = "s3://bucket/lab/runs"


@pytest.fixture(params=["folder", "moto", "google"])
def bucket(request, tmp_path, monkeypatch):
    """A URL of an empty bucket; `machine(name)` goes to another machine, with an empty cache."""
    url = URL
    with ExitStack() as stack:
        if request.param == "folder":
            (tmp_path / "store").mkdir()
            store = pyarrow.fs.PyFileSystem(Handler(tmp_path / "store"))
            monkeypatch.setattr(object_store, "open_filesystem", lambda url: (store, "lab/runs"))
        elif request.param == "moto":
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                monkeypatch.setenv(name, "test")
            url = f"{URL}?endpoint_override=127.0.0.1:{stack.enter_context(moto(tmp_path))}&scheme=http"
        else:
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(google_credentials(tmp_path)))
            port = stack.enter_context(google(tmp_path))
            url = f"gs://bucket/lab/runs?endpoint_override=127.0.0.1:{port}&scheme=http"

        def machine(name):
            monkeypatch.setenv("IGPO_CACHE", str(tmp_path / name))
            return RemoteRuns(url)

        machine.url = url
        yield machine


class Handler(pyarrow.fs.FSSpecHandler):
    """A local folder as an object store: an object needs no folder."""

    def __init__(self, home):
        from fsspec.implementations.dirfs import DirFileSystem
        from fsspec.implementations.local import LocalFileSystem

        super().__init__(DirFileSystem(str(home), LocalFileSystem(auto_mkdir=True)))


def make_run(url, iteration=2):
    run = RunDirectory.create(local_mirror(url), "demo", {"demo": {"config": {}, "storage_path": url}})
    (run.path / "rollouts" / "turns").mkdir()
    advance(run, iteration)
    return run


def advance(run, iteration, keep=1):
    """What an iteration leaves: a part of the log, its manifest, a checkpoint."""
    (run.path / "rollouts" / "turns" / f"{iteration}.parquet").write_text(f"rows of {iteration}")
    (run.path / "rollouts" / "manifest.json").write_text(json.dumps({"parts": iteration}))

    class Saver:
        def save_to_path(self, path):
            with open(os.path.join(path, "weights"), "w") as file:
                file.write(f"weights of {iteration}")

    Checkpoints(run.checkpoints, keep).save(Saver(), iteration, {}, best=iteration == 2)
    run.note(iteration=iteration)


def contents(folder):
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink()) and path.name not in (remote.STATE, ".lock")
    }


def test_a_run_goes_to_another_machine_whole_and_comes_back(bucket):
    here = bucket("one")
    here.check()
    run = make_run(bucket.url)
    here.upload(run)
    advance(run, 4)
    here.upload(run)
    before = contents(run.path)

    there = bucket("two")
    there.fetch("demo")
    (found,) = RunDirectory.find(local_mirror(bucket.url), "demo")
    assert found.path != run.path and contents(found.path) == before
    assert Checkpoints(found.checkpoints).last.name == "iteration_000004"
    assert Checkpoints(found.checkpoints).best.name == "iteration_000002"
    Checkpoints(found.checkpoints).check_last()
    advance(found, 6)
    there.upload(found)

    with pytest.raises(TakenOverError, match="another machine has gone on with run"):
        advance(run, 5), bucket("one").upload(run)
    bucket("one").fetch("demo")
    assert contents(run.path) == contents(found.path), "the other machine is further"
    bucket("one").upload(run)


def test_only_what_changed_goes_up_and_what_is_gone_goes_away(bucket, monkeypatch):
    here = bucket("one")
    run = make_run(bucket.url)
    here.upload(run)
    sent = []
    send = ObjectStore.send

    def noted(self, path, name):
        sent.append(path.name)
        return send(self, path, name)

    monkeypatch.setattr(ObjectStore, "send", noted)
    advance(run, 4), advance(run, 6)
    (run.path / "rollouts" / "turns" / "2.parquet").unlink()
    here.upload(run)
    assert "config.yaml" not in sent and sent.count("weights") == 1, "4 was pruned before it was ever sent"
    there = bucket("two")
    there.fetch("demo")
    (found,) = RunDirectory.find(local_mirror(bucket.url), "demo")
    assert contents(found.path) == contents(run.path)
    assert not (found.path / "rollouts" / "turns" / "2.parquet").exists()


def test_failures_that_pass_are_tried_again(bucket, monkeypatch):
    here = bucket("one")
    run = make_run(bucket.url)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    write, failures = ObjectStore._write, [OSError("SLOW_DOWN"), pyarrow.ArrowException("UNKNOWN")] * 2

    def shaky(self, path, content):
        if failures:
            raise failures.pop()
        write(self, path, content)

    monkeypatch.setattr(ObjectStore, "_write", shaky)
    here.upload(run)
    failures += [OSError("SLOW_DOWN")] * object_store.ATTEMPTS
    with pytest.raises(UploadError, match=r"can't be uploaded to \w+://.* \(SLOW_DOWN\); it is whole in /"):
        here.upload(run)


def test_a_url_never_becomes_a_folder(tmp_path, monkeypatch):
    from tiny_policy import write_experiment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IGPO_CACHE", str(tmp_path / "cache"))
    file = write_experiment(tmp_path / "demo.yaml", "tiny")
    (experiment,) = load_experiments(file, [f"storage_path={URL}"])
    assert experiment.remote == URL and experiment.resolved()["demo"]["storage_path"] == URL
    assert experiment.storage_path == tmp_path / "cache" / "runs" / "s3" / "bucket" / "lab" / "runs"
    (local,) = load_experiments(file, [f"storage_path=file://{tmp_path}/x"])
    assert (local.storage_path, local.remote) == (tmp_path / "x", None)
    for url, message in {
        "s3://key:secret@bucket/x": "credentials are read from the environment only",
        "ftp://host/x": "runs are kept in a folder, s3://BUCKET/PATH or gs://BUCKET/PATH",
    }.items():
        with pytest.raises(InputError, match=message) as refused:
            RemoteRuns(url)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url, credentials, message",
    [
        (
            "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http",
            True,
            r"nothing can be written there: .*",
        ),
        ("gs://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", True, "CURL error .*connect to server"),
        ("gs://bucket/x", False, "Cannot open credentials file .*nothing.json"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch, url, credentials, message):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    account = google_credentials(tmp_path) if credentials else tmp_path / "nothing.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
    monkeypatch.setattr(object_store, "GOOGLE_SECONDS", 2)
    started = time.monotonic()
    with pytest.raises(InputError, match=f"{message}; check bucket, region and the credentials") as refused:
        RemoteRuns(url).check()
    assert time.monotonic() - started < 30 and "error_info" not in str(refused.value)


def test_a_store_that_gives_back_something_else_is_refused(bucket, monkeypatch):
    here = bucket("one")
    monkeypatch.setattr(ObjectStore, "_read", lambda self, path: b"4\r\nigpo\r\n0")
    with pytest.raises(InputError, match=r"holds b'igpo' is read there as b'4.*check the credentials"):
        here.check()


def test_pods_that_look_at_the_place_at_once_do_not_meet(bucket, monkeypatch, tmp_path):
    """Each has process number 1: one removes its file while the other reads."""
    here, there = bucket("one"), bucket("two")
    read, others = ObjectStore._read, [there]

    def meanwhile(self, path):
        if others:
            others.pop().check()
        return read(self, path)

    monkeypatch.setattr(ObjectStore, "_read", meanwhile)
    here.check()
    assert others == [] and list((tmp_path / "store").rglob(".igpo_probe*")) == []


def test_runs_that_cannot_be_read_are_named(bucket, monkeypatch):
    here = bucket("one")
    here.upload(make_run(bucket.url))

    def fails(self, path):
        raise OSError("SLOW_DOWN")

    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    monkeypatch.setattr(ObjectStore, "_read", fails)
    with pytest.raises(InputError, match="the runs of demo can't be fetched: SLOW_DOWN; try again"):
        bucket("two").fetch("demo")


KILLED = """
import sys
from pipeline.run_directory.directory import RunDirectory
from pipeline.run_directory.object_store import ObjectStore
from pipeline.run_directory.remote import RemoteRuns
send = ObjectStore.send
def slow(self, path, name):
    print(path.name, flush=True)
    import time; time.sleep(0.3)
    return send(self, path, name)
ObjectStore.send = slow
RemoteRuns(sys.argv[1]).upload(RunDirectory(sys.argv[2]))
"""


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_process_killed_in_mid_upload(bucket, after):
    """SIGKILL: the other machine goes on from the checkpoint before, and its own upload is whole again."""
    if "endpoint" not in bucket.url:
        pytest.skip("a process of its own needs a server")
    here = bucket("one")
    run = make_run(bucket.url)
    here.upload(run)
    advance(run, 4)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, bucket.url, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(after):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    there = bucket("two")
    there.fetch("demo")
    (found,) = RunDirectory.find(local_mirror(bucket.url), "demo")
    last = Checkpoints(found.checkpoints).last
    assert last.name == "iteration_000002" and (last / "weights").read_text() == "weights of 2"
    assert not (found.checkpoints / "iteration_000004").exists()
    Checkpoints(found.checkpoints).check_last()
    assert found.metadata["iteration"] in (2, 4)
    shutil.rmtree(run.path)
    advance(found, 4)
    there.upload(found)
    bucket("one").fetch("demo")
    (again,) = RunDirectory.find(local_mirror(bucket.url), "demo")
    assert contents(again.path) == contents(found.path)
