"""What a full, read-only or forbidden disk did, in one sentence with its place and what helps."""

from __future__ import annotations

import errno
import os
from pathlib import Path

DISK_REMEDIES = {
    errno.ENOSPC: "free some space on this disk, then give the same command again",
    errno.EDQUOT: "your quota is used up: free some space, then give the same command again",
    errno.EROFS: "nothing can be written there: name another place",
    errno.EACCES: "change the permissions, or name another place",
}
"""What a user can do about an error of the disk that no part of the program has dealt with."""
FULL_DISK = ("No space left on device", "os error 28", "PytorchStreamWriter failed", "disk is full")
"""Words of libraries for a full disk."""


def disk_trouble(error: BaseException, folder: Path) -> str | None:
    """What a full or read-only disk did, with its place and what helps; None for an error of another kind.

    PyTorch, Arrow and SQLite word it in ways of their own, without the file.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in reversed(chain):
        number = getattr(cause, "errno", None)
        if isinstance(cause, OSError) and number in DISK_REMEDIES:
            return f"{cause.filename or folder}: {cause.strerror}: {DISK_REMEDIES[number]}"
        if any(words in str(cause) for words in FULL_DISK):
            return f"{folder}: {os.strerror(errno.ENOSPC)}: {DISK_REMEDIES[errno.ENOSPC]}"
    return None
