"""Files and folders that appear under their name whole or not at all, whenever the process is killed.

Both are written under a temporary name that ends in `.tmp`, flushed to disk, and renamed. A reader, or a
process that comes after a crash, sees the old content or the new one.

A killed writer leaves its temporary behind. That of a file, `NAME.tmp`, is overwritten by the next write of
the file. That of a folder, `.NAME.HOST.NAMESPACE.PID.RANDOM.tmp`, names its writer: the next write of the
folder on that host removes it, since the process is gone. Containers on one host may share its name, and
number their processes apart: each looks after the leftovers of its own namespace. `remove_leftovers` removes
all of them at once.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp"
"""Ending of a file or folder that is being written."""


def write_file(path: Path, fill: Callable[[BinaryIO], object]) -> int:
    """Replaces the file `path` by what `fill` writes. Its folder must exist.

    At most one process may write a file at a time; run directories and rollout logs have a lock for that. A
    link stays, and what it names is replaced. A pipe or a device (`/dev/stdout`) is written to.

    Args:
        path: the file.
        fill: gets the open temporary file. If it raises, the old file stays and nothing else is left.

    Returns:
        The number of bytes written.
    """
    if _is_stream(path):
        content = io.BytesIO()
        fill(content)
        return path.write_bytes(content.getvalue())
    if path.is_symlink():
        path = path.resolve()
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            fill(file)
            file.flush()
            size = file.tell()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk is found by a write, which knows no name
        raise
    sync_folder(path.parent)
    return size


def write_text(path: Path, text: str) -> None:
    """Replaces the file `path` by `text` in UTF-8, as `write_file` does."""
    write_file(path, lambda file: file.write(text.encode()))


def write_folder(
    target: Path, fill: Callable[[Path], object], *, before_it_counts: Callable[[], object] = lambda: None
) -> None:
    """Makes the folder `target` of what `fill` writes. Its parent must exist.

    Several processes may write the same folder at once: the first one wins.

    Args:
        target: the folder, which must not exist yet, unless `before_it_counts` removes it.
        fill: gets the empty temporary folder. If it raises, nothing is left.
        before_it_counts: called when everything but the name is on disk.

    Raises:
        FileExistsError: `target` exists and is not empty.
        OSError: the disk cannot be written.
    """
    _remove_leftovers_of_dead_writers(target)
    temporary = Path(
        tempfile.mkdtemp(prefix=f"{_prefix(target)}{os.getpid()}.", suffix=TEMPORARY, dir=target.parent)
    )
    try:
        temporary.chmod(0o777 & ~_umask())  # `mkdtemp` makes it for its owner alone
        fill(temporary)
        _sync_tree(temporary)
        before_it_counts()
        try:
            temporary.rename(target)
        except OSError as error:
            if target.exists():
                raise FileExistsError(errno.EEXIST, "there is something of this name", str(target)) from error
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporaries that killed writers left in `folder`. Only for its one writer."""
    for leftover in folder.glob(f".*{TEMPORARY}"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_stream(path: Path) -> bool:
    """Whether `path` is a pipe or a device, which no file may replace."""
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing is there, or its folder says why at the writing
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _prefix(target: Path) -> str:
    return f".{target.name}.{socket.gethostname()}.{_pid_namespace()}."


def _pid_namespace() -> int:
    """Number of the namespace in which this process has its number; 0 where the system has none (macOS)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _remove_leftovers_of_dead_writers(target: Path) -> None:
    prefix = _prefix(target)
    for leftover in target.parent.iterdir():
        if leftover.name.startswith(prefix) and leftover.name.endswith(TEMPORARY):
            pid = leftover.name.removeprefix(prefix).split(".")[0]
            if pid.isdecimal() and not _is_alive(int(pid)):
                shutil.rmtree(leftover, ignore_errors=True)  # another process may do the same, or own it


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
