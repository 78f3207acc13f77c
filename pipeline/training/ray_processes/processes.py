"""Processes that may end at any moment: whether one is alive, and the end of several."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def is_alive(process: psutil.Process) -> bool:
    """False where it has ended, whether or not its parent has asked how."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kills those that are still there."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def kill_descendants() -> None:
    """Kills every process that this one started, and what those started."""
    kill(psutil.Process().children(recursive=True))
