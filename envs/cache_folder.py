"""The cache folder, which keeps computed results between runs: indexes, converted models, web answers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from envs.errors import InputError


def cache_directory() -> Path:
    """`IGPO_CACHE` where set, else `igpo-rllib` under `XDG_CACHE_HOME` or `~/.cache`."""
    given = os.environ.get("IGPO_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "igpo-rllib"


def write_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary folder beside `target`, then renames it to `target`.

    If another process creates `target` in the meantime, its folder stays.

    Raises:
        InputError: the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(
            f"can't write the cache {target.parent} ({error}): set IGPO_CACHE to a writable folder"
        ) from error
    try:
        write(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise InputError(
            f"can't write the cache {target} ({error}): free some space or set IGPO_CACHE to another folder"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
