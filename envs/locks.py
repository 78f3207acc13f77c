"""Locks between processes: one holds a file, the system frees it when that process ends.

Some file systems have no such locks (Lustre mounted without `flock`, NFS without its lock daemon). There a
lock always succeeds and guards nothing, which is said once per process.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_MOMENT = 0.01
"""Seconds after which a lock is asked for once more: who only looks at it (`is_held`) has it no longer."""
_warned = False


class FileLock:
    """A lock on the file `path`, which is made where it is missing and holds the number of its holder.

    Args:
        path: the file. Its folder must exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Takes the lock; with `wait`, as soon as its holder frees it.

        Returns:
            False if another process, or another lock on the file in this one, holds it.

        Raises:
            OSError: the file cannot be written.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _flock(descriptor, self.path, wait):
                    os.close(descriptor)
                    return False
                if os.fstat(descriptor).st_nlink == 0:  # its holder removed the file before freeing it
                    os.close(descriptor)
                    continue
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            return True

    @property
    def holder(self) -> str:
        """The number of the process that holds the lock, as far as it is known."""
        return self.path.read_text(errors="replace").strip() or "unknown"

    def is_held(self) -> bool:
        """Whether a process holds the lock; True too where that cannot be told."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    def release(self, *, remove: bool = False) -> None:
        """Frees the lock; with `remove`, the file goes first. A lock that is not held stays as it is."""
        if self._descriptor is None:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


def _flock(descriptor: int, path: Path, wait: bool) -> bool:
    global _warned
    kind = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    try:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            time.sleep(_MOMENT)
            fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if not _warned:
            _warned = True
            logger.warning(
                "%s: this file system has no locks (%s), so nothing guards against two processes that write "
                "here at once: start no second one in this folder",
                path.parent,
                error.strerror,
            )
    return True
