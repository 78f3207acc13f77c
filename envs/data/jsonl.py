"""Reads and writes JSONL, one object per line. Every error message names file and line."""

from __future__ import annotations

import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from envs.durable import write_text
from envs.errors import InputError
from envs.git_lfs import refuse_pointer

DAMAGE = (OSError, EOFError, zlib.error)
"""What reading a file raises that is gone, cut off or compressed otherwise than its name says."""
PAPER_FOLDER = "paper_data"
"""Folder of the data that the files in conf/paper read."""
OnBad = Callable[[InputError], object] | None
"""Gets the error of a bad line."""


def require_file(path: Path, what: str) -> None:
    """Raises InputError where `path` is not a file, or a Git LFS pointer. `what` names its purpose, such as
    "corpus".
    """
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name that no file system takes
        raise InputError(f"{what} {str(path)[:100]} can't be read: {error.args[-1]}") from error
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder: give the path of a file")
    if not exists:
        cure = "`igpo data paper` fetches it" if path.parent.name == PAPER_FOLDER else "check the path"
        raise InputError(f"{what} {path} does not exist: {cure} (the path is taken from {Path.cwd()})")
    refuse_pointer(path, what)


def read_jsonl(
    path: Path,
    what: str,
    on_bad: OnBad = None,
    open_file: Callable[[Path], IO[bytes]] = lambda path: path.open("rb"),
) -> Iterator[tuple[int, dict]]:
    """Yields (line number from 1, object) for each non-blank line of a UTF-8 JSONL file.

    Args:
        path: the file; only one line at a time is in memory.
        what: the purpose of the file, such as "corpus", for error messages.
        on_bad: called with the error of a bad line, after which reading goes on; None raises the error.
        open_file: opens the file, such as through gzip.

    Raises:
        InputError: the file is missing or unreadable, or, without `on_bad`, a line is not UTF-8, not JSON or
            not an object.
    """
    require_file(path, what)
    try:
        with open_file(path) as file:
            for number, raw in enumerate(file, start=1):
                if not raw.removeprefix(BOM_UTF8).strip():
                    continue
                try:
                    record = as_object(parse_json(raw, path, number), f"{path}:{number}")
                except InputError as error:
                    if on_bad is None:
                        raise
                    on_bad(error)
                    continue
                yield number, record
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} {path} can't be read: {reason}") from error


def write_jsonl(path: Path, records: Iterable[dict]) -> None:
    """Writes one object per line, the file whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error


def parse_json(raw: bytes, path: Path, line: int | None = None) -> object:
    """The value of JSON text.

    Args:
        raw: the text.
        path: the file that it is from, for error messages.
        line: number of the line that it is; None: it is the whole file.

    Raises:
        InputError: it is not UTF-8 or not JSON.
    """
    where = path if line is None else f"{path}:{line}"
    try:
        return json.loads(raw.decode("utf-8-sig").rstrip())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}): save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{line or error.lineno}: not valid JSON ({error.msg.removesuffix(' at')}, column "
            f"{error.colno}): mend or remove the line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error}): mend or remove the line") from error


def as_object(record: object, where: str) -> dict:
    """The record. Raises InputError where it is no JSON object."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


def text_field(record: dict, key: str, where: str) -> str:
    """`record[key]` as a string. Whole numbers, which ids may be, are converted: 3, and pandas' 3.0.

    Args:
        record: the object.
        key: the field.
        where: the place, "file:line", for error messages.

    Raises:
        InputError: the field is missing, neither text nor a whole number, or not valid Unicode.
    """
    if key not in record:
        raise InputError(f"{where}: no `{key}` (found {', '.join(map(repr, record)) or 'nothing'})")
    value = record[key]
    if is_whole(value):
        return str(int(value))
    if not isinstance(value, str):
        raise InputError(f"{where}: `{key}` must be text, found {type(value).__name__}")
    require_unicode(value, f"`{key}`", where)
    return value


def is_whole(value: object) -> bool:
    """Whether the value is a whole number; pandas writes 3.0 for 3 where others of the column are missing."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    )


def require_unicode(text: str, what: str, where: str) -> None:
    """Raises InputError for half of a surrogate pair, which tokenizers and Parquet cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {what} is not valid Unicode ({error.reason}): mend or remove the line"
        ) from error
