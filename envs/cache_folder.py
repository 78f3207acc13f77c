"""The cache folder, which keeps computed results between runs: indexes, converted models, web answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from envs.durable import write_folder
from envs.errors import InputError


def cache_directory() -> Path:
    """`IGPO_CACHE` where set, else `igpo-rllib` under `XDG_CACHE_HOME` or `~/.cache`."""
    given = os.environ.get("IGPO_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "igpo-rllib"


def write_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill the cached folder `target`, whole or not at all.

    If another process creates `target` in the meantime, its folder stays.

    Raises:
        InputError: the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_folder(target, write)
    except OSError as error:
        if isinstance(error, FileExistsError) and target.is_dir():
            return  # another process was first
        raise InputError(
            f"can't write the cache {target} ({error}): free some space or "
            "set IGPO_CACHE to a writable folder"
        ) from error
