"""Streaming JSONL: one object a line, and every complaint names file and line."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from pathlib import Path

from envs.errors import InputError


def require_file(path: Path, what: str) -> None:
    """Refuse a `path` that is no file; `what` (e.g. "corpus") says in the message what it was meant to be."""
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder: give the path of a file")
    if not path.exists():
        raise InputError(f"{what} {path} does not exist: check the path (it is taken from {Path.cwd()})")


def read_jsonl(
    path: Path, what: str, on_bad: Callable[[InputError], object] | None = None
) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) of each non-blank line of a UTF-8 JSONL file, one line in memory at
    a time.

    `on_bad` takes the complaint about a bad line, and reading goes on.

    Raises:
        InputError: the file is missing or unreadable, or, without `on_bad`, a line is not UTF-8, not JSON or
            not an object.
    """
    require_file(path, what)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{what} {path} can't be read: {error.strerror}") from error
    with file:
        for number, raw in enumerate(file, start=1):
            if not raw.removeprefix(BOM_UTF8).strip():
                continue
            try:
                record = _object(raw, f"{path}:{number}")
            except InputError as error:
                if on_bad is None:
                    raise
                on_bad(error)
                continue
            yield number, record


def _object(raw: bytes, where: str) -> dict:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}): save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}): mend or remove the line") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


def text_field(record: dict, key: str, where: str) -> str:
    """`record[key]` as a string, integers (as ids may be) included.

    `where` is "file:line" for the message.
    """
    if key not in record:
        raise InputError(f"{where}: no `{key}` (found {', '.join(map(repr, record)) or 'nothing'})")
    value = record[key]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{where}: `{key}` must be text, found {type(value).__name__}")
    require_unicode(value, f"`{key}`", where)
    return value


def require_unicode(text: str, what: str, where: str) -> None:
    """Refuse half a surrogate pair (JSON can spell one): no tokenizer and no Parquet file could take the
    text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {what} is not valid Unicode ({error.reason}): mend or remove the line"
        ) from error
