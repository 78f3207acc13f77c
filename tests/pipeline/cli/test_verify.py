"""`igpo verify` through the real command line: equal, different, and not to be verified."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Command
from tiny_policy import write_experiment, write_policy

pytestmark = pytest.mark.slow
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


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


def test_a_run_is_equal_to_itself(folder):
    """From its last checkpoint, and from the first weights with the evaluation before training."""
    for options in ((), ("--after", "0", "--iterations", "2")):
        code, said = verify(folder, *options)
        assert code == 0 and "equal to the last bit" in said, said
        assert "weights" in said and "tokens" in said and "not compared" not in said
    assert json.loads((the_run(folder) / "run.json").read_text())["status"] == "finished"


def test_the_first_difference_is_shown(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    log = the_run(tmp_path / "copy") / "rollouts"
    manifest = json.loads((log / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["table"] == "turns":
            turns = pq.read_table(log / file["path"])
            place = turns.column_names.index("advantage")
            halved = [value if value is None else value / 2 for value in turns["advantage"].to_pylist()]
            changed = turns.set_column(place, turns.field(place), pa.array(halved, pa.float64()))
            pq.write_table(changed, log / file["path"])
            file["bytes"] = (log / file["path"]).stat().st_size
    (log / "manifest.json").write_text(json.dumps(manifest))
    code, said = verify(tmp_path / "copy")
    assert code == 1 and "different: iteration" in said and "turns, episode_id" in said, said
    assert ", advantage: " in said and "changed since the run began: nothing" in said


def test_what_cannot_be_verified(folder):
    code, said = verify(folder, "--after", "77")
    assert code == 2 and "keeps no checkpoint of iteration 77" in said and "Traceback" not in said, said
