"""Search indexes that are built once and kept between runs."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from envs.cache_folder import cache_directory, write_directory

logger = logging.getLogger(__name__)

Index = TypeVar("Index")


def cached_index(
    identity: dict[str, Any],
    cache: Path | None,
    *,
    load: Callable[[Path], Index],
    write: Callable[[Path], None],
    damage: tuple[type[Exception], ...],
) -> Index:
    """Loads an index from the cache. Builds it first where it is missing or damaged.

    Args:
        identity: everything that decides the index; its hash names the folder, below a folder named by its
            `kind`.
        cache: the cache folder; None means `cache_directory()`.
        load: reads the index from its folder.
        write: builds the index and writes it into an empty folder.
        damage: the exceptions that `load` raises for a damaged index. A warning is logged before it is
            rebuilt.

    Raises:
        InputError: the cache cannot be written.
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
