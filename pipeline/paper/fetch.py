"""Fetches public files: a broken download goes on where it stopped, and a file that is here is never fetched
again.

A file grows as NAME.part and gets its name once size and hash are right. `fetched.json` beside it keeps what
was seen: where no hash is published, the first one seen holds from then on.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from envs.durable import write_text
from envs.errors import InputError
from pipeline.paper.manifest import PublicFile, git_blob_of, sha256_of

RECORD = "fetched.json"
PART = ".part"

logger = logging.getLogger(__name__)


class State(StrEnum):
    """How much of a file is here."""

    HERE = "here"
    UNCHECKED = "here, not checked"
    HALF = "half"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Here:
    """What is here of one file."""

    state: State
    bytes: int


def look(file: PublicFile, folder: Path) -> Here:
    """Says how much of a file is here.

    Raises:
        InputError: a whole file is here that is not the one that was fetched, or not the manifest's.
    """
    path, part = folder / file.name, folder / (file.name + PART)
    if path.is_file():
        known, found = record_of(folder).get(file.name, {}), path.stat().st_size
        if "sha256" not in known:  # put there by hand
            return Here(State.UNCHECKED, found)
        if found != known["size"]:
            raise InputError(
                f"{path} has {found:,} bytes and had {known['size']:,} when it was fetched: remove it, and "
                "give the same command again"
            )
        if file.sha256 and known["sha256"] != file.sha256:
            raise _wrong(path, "sha256", known["sha256"], file.sha256)
        return Here(State.HERE, found)
    if part.is_file() and part.stat().st_size:
        return Here(State.HALF, part.stat().st_size)
    return Here(State.MISSING, 0)


def record_of(folder: Path) -> dict[str, Any]:
    """What is known of the files that were fetched: name to size, sha256, url and time."""
    path = folder / RECORD
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error}): remove it, and the files are checked again"
        ) from error


def fetch(file: PublicFile, folder: Path) -> None:
    """Downloads a file, goes on with a half one, and checks it. A bar shows the bytes on a terminal.

    Raises:
        InputError: the server cannot be reached, the download broke off, or what came is not the file.
    """
    from huggingface_hub.file_download import http_get

    part = folder / (file.name + PART)
    if file.size is not None and part.is_file() and part.stat().st_size > file.size:
        part.unlink()  # of another file
    # Its retries are shown by the message in the end; its own lines would tear the bar.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with part.open("ab") as opened:
            http_get(
                file.url,
                opened,
                resume_size=opened.tell(),
                expected_size=file.size,
                displayed_filename=file.name,
                headers={"Accept-Encoding": "identity"},  # the bytes as they lie there, as they are hashed
            )
    except Exception as error:  # of many kinds: no network, no such file, no right to it, a line that broke
        if _has_all(error):
            return _finish(file, part, folder)
        here = part.stat().st_size if part.is_file() else 0
        if not here:
            part.unlink(missing_ok=True)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{file.name} was not fetched from {file.url}: {reason}. {here:,} bytes are here and stay; the "
            f"same command goes on from there, or put the file into {folder} yourself"
        ) from error
    _finish(file, part, folder)


def _has_all(error: Exception) -> bool:
    """Whether the server says that nothing comes after what is here: 416, range not satisfiable."""
    return getattr(getattr(error, "response", None), "status_code", None) == 416


def _finish(file: PublicFile, part: Path, folder: Path) -> None:
    check(file, part, folder)
    part.replace(folder / file.name)


def check(file: PublicFile, path: Path, folder: Path) -> str:
    """Compares a file's size and hash with the manifest, or with what was seen first, and keeps them.

    Returns:
        Its sha256.

    Raises:
        InputError: they differ. What is there stays for a look, as NAME.wrong.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise _put_aside(file, path, folder, "bytes", f"{size}", f"{file.size}")
    seen = sha256_of(path)
    first = record_of(folder).get(file.name, {}).get("sha256")
    if file.sha256 and seen != file.sha256:
        raise _put_aside(file, path, folder, "sha256", seen, file.sha256)
    if file.git_blob and (blob := git_blob_of(path)) != file.git_blob:
        raise _put_aside(file, path, folder, "git's hash", blob, file.git_blob)
    if not file.sha256 and first and seen != first:
        raise _put_aside(file, path, folder, "sha256", seen, first)
    fetched = {
        "size": size,
        "sha256": seen,
        "url": file.url,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(folder / RECORD, json.dumps(record_of(folder) | {file.name: fetched}, indent=1) + "\n")
    return seen


def _put_aside(file: PublicFile, path: Path, folder: Path, what: str, seen: str, wanted: str) -> InputError:
    aside = folder / f"{file.name}.wrong"
    path.replace(aside)
    return _wrong(aside, what, seen, wanted)


def _wrong(path: Path, what: str, seen: str, wanted: str) -> InputError:
    return InputError(
        f"{path} is another file than was expected: {what} {seen} instead of {wanted}; remove it, and give "
        "the same command again, which fetches it anew"
    )
