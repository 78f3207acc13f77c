"""Files and folders are there whole or not at all, whether their writers fail or are killed."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from envs.durable import TEMPORARY, remove_leftovers, write_file, write_folder, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from envs.durable import write_file, write_folder
path = Path(sys.argv[1])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def fill_file(file):
    file.write(b"new " * 10_000)
    die()

def fill_folder(folder):
    (folder / "one").write_text("new")
    if sys.argv[2] == "folder":
        die()

if sys.argv[2] == "file":
    write_file(path, fill_file)
else:
    write_folder(path, fill_folder, before_it_counts=die)
"""


def kill_a_writer(path, where: str) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(path), where], timeout=60)
    assert died.returncode == -signal.SIGKILL


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "run.json"
    assert write_file(path, lambda file: file.write(b"old")) == 3
    write_text(path, "néw")
    assert path.read_bytes() == "néw".encode() and names(tmp_path) == ["run.json"]


def test_a_writer_of_a_file_killed_in_the_middle_leaves_the_old_one(tmp_path):
    path = tmp_path / "run.json"
    write_text(path, "old")
    kill_a_writer(path, "file")
    assert path.read_text() == "old" and names(tmp_path) == ["run.json", "run.json" + TEMPORARY]
    write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["run.json"]


def test_a_writer_of_a_file_that_fails_leaves_the_old_one_alone(tmp_path):
    path = tmp_path / "run.json"
    write_text(path, "old")

    def fail(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert path.read_text() == "old" and names(tmp_path) == ["run.json"]


def test_a_pipe_is_written_to_and_a_link_stays(tmp_path):
    """As `--out /dev/stdout` and `--out >(gzip)` mean it."""
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    assert write_file(pipe, lambda file: file.write(b"new")) == 3
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old")
    (tmp_path / "link").symlink_to("there/file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == "new"
    assert names(tmp_path) == ["link", "pipe", "there"] and names(tmp_path / "there") == ["file"]


@pytest.mark.parametrize("where", ["folder", "before_it_counts"])
def test_a_writer_of_a_folder_killed_in_the_middle_leaves_none(tmp_path, where):
    kill_a_writer(tmp_path / "index", where)
    (leftover,) = names(tmp_path)
    assert leftover.startswith(".index.") and leftover.endswith(TEMPORARY)
    write_folder(tmp_path / "index", lambda folder: (folder / "one").write_text("whole"))
    assert names(tmp_path) == ["index"] and (tmp_path / "index" / "one").read_text() == "whole"


def test_leftovers_of_living_writers_and_other_folders_stay(tmp_path):
    def write(folder):
        write_folder(tmp_path / "index", lambda other: (other / "theirs").write_text("x"))
        assert folder.is_dir()

    kill_a_writer(tmp_path / "other", "folder")
    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "index", write)
    assert names(tmp_path / "index") == ["theirs"]
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["index"]


APART = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")
"""Runs a command as a container on the host's network has it: the host's name, numbers of its own."""


def test_a_writer_in_a_container_that_shares_the_host_s_name_is_not_taken_for_dead(tmp_path):
    if not shutil.which(APART[0]) or subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of processes here")
    script = "import sys; from pathlib import Path; from envs.durable import write_folder\n"
    script += "write_folder(Path(sys.argv[1]), lambda folder: (folder / 'theirs').write_text('x'))"

    def write(folder):
        subprocess.run([*APART, sys.executable, "-c", script, str(tmp_path / "index")], check=True)
        assert folder.is_dir()

    with pytest.raises(FileExistsError):
        write_folder(tmp_path / "index", write)
    assert names(tmp_path) == ["index"] and names(tmp_path / "index") == ["theirs"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "index", fail)
    assert names(tmp_path) == []


def test_a_folder_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").mkdir()
    write_folder(tmp_path / "index", lambda folder: None)
    assert os.stat(tmp_path / "index").st_mode == os.stat(tmp_path / "plain").st_mode


def test_everything_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    steps = []
    fsync, rename = os.fsync, type(tmp_path).rename

    def spy(descriptor):
        steps.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    monkeypatch.setattr(type(tmp_path), "rename", lambda self, to: (steps.append("rename"), rename(self, to)))

    def fill(folder):
        (folder / "sub").mkdir()
        (folder / "sub" / "one").write_text("x")

    write_folder(tmp_path / "index", fill)
    index = tmp_path / "index"
    before, after = steps[: steps.index("rename")], steps[steps.index("rename") + 1 :]
    assert set(before) == {path.stat().st_ino for path in (index, index / "sub", index / "sub" / "one")}
    assert after == [tmp_path.stat().st_ino]
