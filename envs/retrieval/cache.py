"""Where indexes are kept between runs, and how one gets there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from envs.durable import write_folder
from envs.errors import InputError

logger = logging.getLogger(__name__)

Index = TypeVar("Index")


def cache_directory() -> Path:
    """`IGPO_CACHE` where set, else `igpo-rllib` under `XDG_CACHE_HOME` or `~/.cache`."""
    given = os.environ.get("IGPO_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "igpo-rllib"


def cached_index(
    identity: dict[str, Any],
    cache: Path | None,
    *,
    load: Callable[[Path], Index],
    write: Callable[[Path], None],
    damage: tuple[type[Exception], ...],
) -> Index:
    """The index that `identity` (its key `kind` names the folder) decides: loaded, after it was written where
    there is none.

    `damage` are the exceptions that `load` raises for a damaged one, which is then written again, and said.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    folder = (cache or cache_directory()) / identity["kind"] / key
    if folder.is_dir():
        try:
            return load(folder)
        except damage as error:
            logger.warning("the cached index %s is damaged (%s): building it again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    logger.info(
        "indexing %s documents for %s, once; kept in %s", identity["documents"], identity["kind"], folder
    )
    write_directory(folder, write)
    return load(folder)


def write_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Makes the folder `target` of what `write` writes, whole or not at all.

    If another process put a folder there in the meantime, that one stays.

    Raises:
        InputError: the cache can't be written.
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
