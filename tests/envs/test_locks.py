"""One process holds a lock; a file system without locks guards nothing, and says so once."""

import errno
import fcntl
import logging
import os
import subprocess
import sys

import pytest

from envs import locks
from envs.locks import FileLock

HOLD = (
    "import sys; from pathlib import Path; from envs.locks import FileLock\n"
    "assert FileLock(Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def no_flock(monkeypatch):
    """Stands for a file system without `flock`, with the error number that the test asks for."""

    def mount(number):
        def flock(descriptor, how):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        monkeypatch.setattr(locks, "_warned", False)

    return mount


def test_one_holds_it_and_its_number_can_be_read(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire() and not second.acquire()
    assert second.holder == str(os.getpid())
    second.release()  # which it does not hold
    assert not second.acquire() and second.is_held()
    first.release()
    assert not first.is_held()
    assert second.acquire()
    second.release(remove=True)
    assert not second.is_held()
    assert not (tmp_path / "lock").exists()


def test_a_process_that_is_killed_frees_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire() and lock.holder == str(holder.pid)
    holder.kill()
    assert lock.acquire(wait=True)
    holder.wait()


def test_a_file_that_its_holder_removed_is_no_lock(tmp_path, monkeypatch):
    holder, waiting = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert holder.acquire()
    flock = fcntl.flock

    def removed_meanwhile(descriptor, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        holder.release(remove=True)  # after the other one opened the file
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    assert waiting.acquire()
    assert not FileLock(tmp_path / "lock").acquire(), "it holds the file of today"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_it_goes_on_and_says_so_once(tmp_path, no_flock, caplog, number):
    no_flock(number)
    with caplog.at_level(logging.WARNING):
        assert all(FileLock(tmp_path / name).acquire() for name in ("a", "a", "b"))
    (warning,) = caplog.messages
    assert f"{tmp_path}: this file system has no locks" in warning and "nothing guards" in warning


def test_another_error_is_no_missing_lock(tmp_path, no_flock):
    no_flock(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        FileLock(tmp_path / "a").acquire()
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "absent" / "a").acquire()


def test_every_user_of_locks_goes_on(tmp_path, no_flock, caplog):
    """The run directory, the rollout log, the study; MLflow's store takes the same lock."""
    from pipeline.rollout_log.folder import LocalFolder, WriterLock
    from pipeline.run_directory.directory import RunDirectory
    from pipeline.study.plan import Cell
    from pipeline.study.store import Store

    run = RunDirectory.create(tmp_path, "demo", {})
    no_flock(errno.ENOLCK)
    with run.lock(), run.lock():
        WriterLock(LocalFolder(tmp_path / "log")).release()
        with Store(tmp_path).claim(Cell("igpo", "easy", 0, 1, None)) as claimed:
            assert claimed
    assert len([message for message in caplog.messages if "no locks" in message]) == 1


def test_locks_are_taken_in_one_place():
    from pathlib import Path

    top = Path(__file__).parents[2]
    users = [
        path.relative_to(top).as_posix()
        for part in ("algorithms", "envs", "pipeline")
        for path in (top / part).rglob("*.py")
        if "fcntl" in (text := path.read_text(encoding="utf-8")) or "import filelock" in text
    ]
    assert users == ["envs/locks.py"]
