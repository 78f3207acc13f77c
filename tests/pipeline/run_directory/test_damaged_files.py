"""Files of a run that were cut off, or may not be written: one sentence with the file and the remedy."""

import errno
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollout_log_samples import write_run

from envs.durable import remove_leftovers, write_text
from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.cli.igpo import app
from pipeline.evaluation.heldout_scores import load_scores
from pipeline.experiment.resolved import read_run_config
from pipeline.rollout_log.folder import RolloutLogError
from pipeline.rollout_log.manifest import load_manifest
from pipeline.run_directory.checkpoints import Checkpoints, check_checkpoint, read_note
from pipeline.run_directory.directory import RunDirectory

ENV = {"alias_rule": "max", "format_penalty": -1.0, "truncation_penalty": 0.0}
READ = (["sql", "SELECT * FROM turns"], ["show"], ["report"], ["recredit"], ["compact"])
RESOLVED = {"demo": {"run": "IGPO", "config": {"lr": 0.1}, "storage_path": "runs"}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run's folder with its log; the working directory is beside it."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "demo", config={"config": {"preset": "grpo", "env_config": ENV}})


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


class Saver:
    def save_to_path(self, folder):
        for name in ("algorithm_state.pkl", "hf/policy/model.safetensors"):
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"x" * 100)


@pytest.fixture
def checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text("demo: {}\n" * 20)
    checkpoints = Checkpoints(tmp_path / "checkpoints", experiment=tmp_path / "config.yaml")
    checkpoints.save(Saver(), 1, {})
    checkpoints.check_last()
    return checkpoints


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_run_json(tmp_path, share):
    run = RunDirectory.create(tmp_path, "demo", RESOLVED)
    cut(run.metadata_path, share)
    with pytest.raises(InputError, match=r"run.json: this file is damaged .*: restore it from a copy"):
        _ = run.metadata


def test_run_json_of_another_kind(tmp_path):
    run = RunDirectory.create(tmp_path, "demo", RESOLVED)
    kinds = {"[]": "no JSON object", '{"schema_version": 1}': "lacks name, run_id", "\xff": "damaged"}
    for text, said in kinds.items():
        run.metadata_path.write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=f"run.json: .*{said}"):
            _ = run.metadata


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7])
def test_config_yaml(tmp_path, share):
    run = RunDirectory.create(tmp_path, "demo", RESOLVED)
    assert read_run_config(run.config_path) == ("demo", RESOLVED["demo"])
    cut(run.config_path, share)
    with pytest.raises(InputError, match=r"config.yaml: this file is damaged .*last/experiment.yaml"):
        read_run_config(run.config_path)


@pytest.mark.parametrize("command", READ)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_manifest(folder, refused, command, share):
    cut(folder / "rollouts" / "manifest.json", share)
    said = refused(command[0], folder, *command[1:], app=app)
    assert "manifest.json is not valid JSON" in said and "restore it from a copy" in said


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "run_id": 3}'])
def test_a_manifest_of_another_kind(folder, text):
    (folder / "rollouts" / "manifest.json").write_text(text)
    with pytest.raises(RolloutLogError, match=r"manifest.json (has schema version None|is no manifest)"):
        load_manifest(folder / "rollouts")


@pytest.mark.parametrize("command", READ[:4])
def test_a_damaged_part_of_the_log(folder, refused, command):
    for part in (folder / "rollouts" / "turns").glob("*.parquet"):
        part.write_bytes(b"x" * part.stat().st_size)  # as long as before
    said = refused(command[0], folder, *command[1:], app=app)
    assert "turns/" in said and "restore the file from a copy" in said


def test_a_damaged_recredit_file(folder, refused):
    (folder / "recredit").mkdir()
    (folder / "recredit" / "run_settings.parquet").write_bytes(b"")
    said = refused("sql", folder, "SELECT 1", app=app)
    assert "run_settings.parquet: this file is damaged" in said and "`igpo recredit` writes it again" in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("algorithm_state.pkl", "algorithm_state.pkl has 50 bytes of 100"),
        ("hf/policy/model.safetensors", "model.safetensors has 50 bytes of 100"),
        ("experiment.yaml", "experiment.yaml has 90 bytes of 180"),
        ("igpo_checkpoint.json", "igpo_checkpoint.json: this file is damaged"),
    ],
)
def test_a_cut_checkpoint(checkpoints, name, said):
    cut(checkpoints.last / name)
    with pytest.raises(InputError, match=f"{said}.*use another checkpoint"):
        checkpoints.check_last()


def test_an_incomplete_checkpoint(checkpoints):
    last = checkpoints.last
    (last / "algorithm_state.pkl").unlink()
    with pytest.raises(InputError, match="incomplete: algorithm_state.pkl is missing"):
        checkpoints.check_last()
    check_checkpoint(last, "hf/")  # what `rllib evaluate` reads is there
    shutil.rmtree(last / "hf")
    with pytest.raises(InputError, match="hf/policy/model.safetensors is missing"):
        check_checkpoint(last, "hf/")
    (last / "igpo_checkpoint.json").unlink()
    with pytest.raises(InputError, match="last: the checkpoint that it names is gone .* remove `last`"):
        checkpoints.check_last()


def test_a_checkpoint_of_an_earlier_version_names_no_files(checkpoints):
    note = read_note(checkpoints.last)
    del note["files"]
    (checkpoints.last / "igpo_checkpoint.json").write_text(json.dumps(note))
    checkpoints.check_last()


def test_heldout_scores(tmp_path):
    (tmp_path / "heldout_before.json").write_text('{"iteration": 0, "sco')
    with pytest.raises(InputError, match=r"heldout_before.json: this file is damaged.*remove it"):
        load_scores(tmp_path / "heldout_before.json")


def refuse_to_write(monkeypatch, below, number=errno.EROFS):
    """Stands for a read-only mount, which stops root too."""
    import pathlib

    mkdir, path_open, os_open = pathlib.Path.mkdir, pathlib.Path.open, os.open

    def refuse(path):
        if str(path).startswith(str(below)):
            raise OSError(number, os.strerror(number), str(path))

    def guarded_mkdir(self, *arguments, **options):
        if not self.is_dir():
            refuse(self)
        return mkdir(self, *arguments, **options)

    def guarded_open(self, mode="r", *arguments, **options):
        if set(mode) & set("wax+"):
            refuse(self)
        return path_open(self, mode, *arguments, **options)

    def guarded_os_open(path, flags, *arguments, **options):
        if flags & (os.O_RDWR | os.O_WRONLY):
            refuse(path)
        return os_open(path, flags, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "mkdir", guarded_mkdir)
    monkeypatch.setattr(pathlib.Path, "open", guarded_open)
    monkeypatch.setattr(os, "open", guarded_os_open)


@pytest.mark.parametrize("command", [["sql", "SELECT * FROM turns"], ["show"], ["report", "-o", "r.html"]])
def test_a_read_only_run_is_read(folder, run, monkeypatch, command):
    refuse_to_write(monkeypatch, folder)
    code, said = run(command[0], folder, *command[1:], app=app)
    assert code == 0, said


def test_a_read_only_run_and_what_would_write_there(folder, refused, monkeypatch, tmp_path):
    refuse_to_write(monkeypatch, folder)
    assert "Read-only file system" in (said := refused("recredit", folder, app=app)) and "--out" in said
    assert "nothing can be written in" in refused("compact", folder, app=app)
    assert "Read-only file system" in refused("report", folder, "-o", folder / "report.html", app=app)
    said = refused("recredit", folder, "--out", tmp_path / "there.parquet", app=app)
    assert "iteration 1 cannot be credited" in said, "it has a place to write; the sample's scores are ragged"


def test_a_new_run_on_a_full_or_read_only_disk_leaves_no_folder(tmp_path, monkeypatch):
    import pipeline.run_directory.directory as directory

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(directory, "write_text", full)
    with pytest.raises(InputError, match="the run directory cannot be made: No space left on device"):
        RunDirectory.create(tmp_path, "demo", RESOLVED)
    assert not (tmp_path / "demo").exists()


def test_a_run_of_which_no_attempt_began_is_discarded(tmp_path):
    kept, unused = (RunDirectory.create(tmp_path, "demo", RESOLVED) for _ in range(2))
    kept.begin_attempt(None)
    for run in (kept, unused):
        run.discard_if_unused()
    assert [run.path for run in RunDirectory.find(tmp_path, "demo")] == [kept.path]


def test_a_full_disk_is_said_with_its_file(tmp_path, monkeypatch, refused):
    from pipeline.cli.log import show

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "file", "text")
    assert caught.value.filename == str(tmp_path / "file") and not list(tmp_path.iterdir())

    def write(*arguments, **options):
        write_text(tmp_path / "file", "text")

    monkeypatch.setattr("pipeline.analysis.open_run", write)
    said = refused("show", "last", app=app)
    assert f"{tmp_path / 'file'}: No space left on device: free some space" in said
    assert show is not None


def test_leftovers_of_a_full_disk(tmp_path, checkpoints):
    """Files and links beside folders: all of them go before the next checkpoint is written."""
    (checkpoints.folder / ".iteration_000002.host.1.x.tmp").mkdir()
    (checkpoints.folder / ".state.pkl.tmp").write_bytes(b"\x80")
    (checkpoints.folder / ".link.tmp").symlink_to(tmp_path)
    (checkpoints.folder / ".last.link").symlink_to("gone")
    remove_leftovers(checkpoints.folder)
    assert not list(checkpoints.folder.glob(".*.tmp")) and tmp_path.is_dir()
    checkpoints.save(Saver(), 2, {})
    checkpoints.check_last()


@pytest.mark.parametrize(
    "name",
    [
        "../../../../victim.parquet", "turns/../../victim.parquet", "/victim.parquet", "victim.parquet",
        "turns/..", "turns/a/b.parquet", "episodes/a.parquet", "turns/.parquet", "turns/a.parquet\n",
        "turns/*.parquet",
    ],
)  # fmt: skip
def test_an_untrusted_log_names_files_inside_it_only(folder, refused, name):
    victim = folder.parents[1] / "victim.parquet"
    pq.write_table(pa.table({"secret": [1]}), victim)
    path = folder / "rollouts" / "manifest.json"
    manifest = json.loads(path.read_text())
    turns = next(file for file in manifest["files"] if file["table"] == "turns")
    turns |= {"path": name, "bytes": victim.stat().st_size, "merged": False}
    path.write_text(json.dumps(manifest))
    for command in READ:
        said = refused(command[0], folder, *command[1:], app=app)
        assert "no TABLE/NAME.parquet inside the log" in said
    assert victim.is_file()


def test_a_table_of_an_untrusted_log_is_no_link_out_of_it(folder, refused, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(folder / "rollouts" / "turns", elsewhere)
    pq.write_table(pa.table({"mine": [1]}), elsewhere / "mine.parquet")
    (folder / "rollouts" / "turns").symlink_to(elsewhere)
    assert "is a link to" in refused("compact", folder, app=app)
    assert (elsewhere / "mine.parquet").is_file(), "which a writer would remove as a leftover"


def test_files_that_are_links_are_read(folder, tmp_path):
    """As the Hugging Face hub and DataLad lay out what they download."""
    (part,) = (folder / "rollouts" / "turns").glob("*.parquet")
    shutil.move(part, tmp_path / "blob")
    part.symlink_to(tmp_path / "blob")
    with open_run(folder) as run:
        assert run.sql("SELECT count(*) FROM turns").fetchall()[0][0] > 0


@pytest.mark.parametrize("name", ["run*", "run?", "run[!a]", "run[a-z]", "run[/x]", "it's"])
def test_a_path_is_no_pattern(tmp_path, name):
    decoys = [tmp_path / "runs", tmp_path / "runx"]
    for decoy in decoys:
        write_run(decoy, run_id="decoy" if decoy.name == "runs" else "run-1")
    folder = write_run(tmp_path / name)
    with open_run(folder) as run:
        ((count,),) = run.sql("SELECT count(DISTINCT run_id) FROM turns").fetchall()
        assert count == 1 and run.runs().fetchall()
