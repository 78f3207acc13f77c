"""`rllib train file` with a bucket for `storage_path`, as a person types it: killed in the middle of an
upload, resumed on another machine, over a line that fails now and then. Another machine is another working
folder and another cache.
"""

import json
import os
import shutil
from contextlib import ExitStack

import psutil
import pytest
from bucket_servers import Line, google, google_credentials, moto
from command import Command
from tiny_policy import write_experiment, write_policy

from pipeline.run_directory.remote import RemoteRuns

pytestmark = pytest.mark.slow

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
SCHEMES = {"s3": (moto, "PUT"), "gs": (google, "POST")}
"""Server, and the request that an upload begins with and that names the object."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(params=SCHEMES)
def lab(request, tmp_path, policy):
    """Machines that share nothing but a bucket, and the line to it."""
    with ExitStack() as stack:
        server, method = SCHEMES[request.param]
        line = Line(stack.enter_context(server(tmp_path)))
        stack.callback(line.close)
        url = f"{request.param}://bucket/lab?endpoint_override=127.0.0.1:{line.port}&scheme=http"
        keys = KEYS | {"GOOGLE_APPLICATION_CREDENTIALS": str(google_credentials(tmp_path))}

        def train(machine, iterations, *arguments, keys=keys):
            folder = tmp_path / machine
            if not folder.exists():
                folder.mkdir()
                shutil.copytree(policy, folder / "policy")
                write_experiment(
                    folder / "demo.yaml",
                    "policy",
                    evaluation_interval=0,
                    num_env_runners=0,
                    engine={"kind": "transformers", "max_num_seqs": 32},
                )
            return Command(
                folder,
                *("train", "file", "demo.yaml", "--set", f"storage_path={url}"),
                *("--stop", json.dumps({"training_iteration": iterations}), *arguments),
                environment={"IGPO_CACHE": str(folder / "cache"), "AWS_EC2_METADATA_DISABLED": "true"} | keys,
            )

        train.line, train.url, train.folder, train.keys = line, url, tmp_path, keys
        train.upload_of = lambda name: rf"{method} \S*{name}"
        yield train


def kill(run: Command) -> None:
    """SIGKILL to the driver; what it leaves behind is ended too."""
    left = run.descendants("")
    run.process.kill()
    run.end()
    psutil.wait_procs(left, timeout=60)


def test_a_run_killed_in_mid_upload_goes_on_on_another_machine(lab, monkeypatch, tmp_path):
    lab.line.hold(lab.upload_of(r"iteration_000003\S*safetensors"))
    first = lab("one", 100)
    first.wait_for("iteration 3/")
    assert lab.line.is_held.wait(60), first.said
    kill(first)
    assert not (lab.folder / "one" / "runs").exists(), "a bucket never becomes a folder"

    resets = 3 if lab.url.startswith("s3") else 0  # the emulator loses count of an upload that goes on
    lab.line.reset(resets)
    second = lab("two", 4, "--resume")
    assert second.end() == 0, second.said
    assert second.iterations == [3, 4], "the third was on its way when the first machine died"
    assert f"uploaded {lab.url} (demo/" in second.said and lab.line.cut == resets

    # A third machine has all of it, and nothing of the file that was cut off.
    for name, value in (lab.keys | {"IGPO_CACHE": str(tmp_path / "three")}).items():
        monkeypatch.setenv(name, value)
    RemoteRuns(lab.url).fetch("demo")
    (path,) = (tmp_path / "three").glob("runs/*/bucket/lab/demo/*")
    assert [attempt["how"] for attempt in json.loads((path / "run.json").read_text())["attempts"]] == [
        "died",
        "finished",
    ]
    (same,) = (lab.folder / "two" / "cache").glob("runs/*/bucket/lab/demo/*")
    last = os.readlink(path / "checkpoints" / "last")
    assert last == "iteration_000004" == os.readlink(same / "checkpoints" / "last")
    weights = [folder / "checkpoints/last/hf/default_policy/model.safetensors" for folder in (path, same)]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    # The first machine is told, and takes the other one's.
    refused = lab("one", 5, "--resume")
    assert refused.end() == 2 and "is finished; start a new one without --resume" in refused.said


def test_a_bucket_that_does_not_take_the_keys_ends_the_command_before_ray_starts(lab):
    unknown = {"GOOGLE_APPLICATION_CREDENTIALS": str(lab.folder / "nothing.json")}
    lab.line.close()
    refused = lab("one", 1, keys=KEYS | unknown)
    assert refused.end(60) == 2, refused.said
    assert refused.said.count("error:") == 1 and "nothing can be written there: " in refused.said
    assert "check bucket, region and the credentials of the environment" in refused.said
    assert "Traceback" not in refused.said and "starting Ray" not in refused.said
