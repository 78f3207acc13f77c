"""Records of CSV, TSV and Parquet files, and the lists that their cells hold as text."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from envs.data.jsonl import DAMAGE, require_file
from envs.errors import InputError

_MADE_BY_PANDAS = re.compile(r"-?\d+\.0")
"""A whole number in a column where others were missing."""
_NUMBER = r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_NUMBERS = re.compile(rf"\[\s*{_NUMBER}(?:(?:\s*,\s*|\s+){_NUMBER})*\s*\]")
"""A list of numbers, with commas or, as NumPy writes it, without."""


ReadCell = Callable[[str, str], Any]
"""Makes a value of the name of a CSV's column and the text of a cell."""


def as_written(column: str, text: str) -> str:
    """The text of the cell itself."""
    return text


def open_text(path: Path) -> IO[bytes]:
    """Opens a file, through gzip where its name ends in `.gz`."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_csv(
    path: Path, what: str, delimiter: str, cell: ReadCell = as_written
) -> Iterator[tuple[str, int, dict]]:
    """Yields (place, row from 0, fields) of a CSV with a header.

    Values are what `cell` makes of the text in a column; empty ones are left out, and so is a column without
    a name, as pandas writes its index.

    Raises:
        InputError: the file is missing, not UTF-8, has a name twice in its header, a row with more values
            than the header, or a quotation mark at the beginning of a value whose end is not the value's.
    """
    require_file(path, what)
    csv.field_size_limit(sys.maxsize)
    with open_text(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        line = 1
        try:
            _refuse_repeated(reader.fieldnames or [], path)
            line = reader.line_num + 1
            for row, fields in enumerate(reader):
                where, line = f"{path}:{reader.line_num}", reader.line_num + 1
                if fields.pop(None, None):
                    raise InputError(f"{where}: more values than the header has names")
                yield (
                    where,
                    row,
                    {name: cell(name, value) for name, value in fields.items() if name and value},
                )
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error.reason}): save the file as UTF-8") from error
        except csv.Error as error:
            raise InputError(
                f"{path}:{line}: not valid CSV ({error}): a value that begins with a quotation mark must end "
                "with one, and those within are doubled"
            ) from error
        except DAMAGE as error:
            raise InputError(f"{path}:{line}: not valid CSV ({error})") from error


def _refuse_repeated(names: Sequence[str], path: Path) -> None:
    repeated = [name for name in names if name and names.count(name) > 1]
    if repeated:
        raise InputError(f"{path}:1: the header has {repeated[0]!r} twice: rename one of the columns")


def whole_number(value: str) -> str:
    """`3` for pandas' `3.0`; any other text as it is."""
    return value[:-2] if _MADE_BY_PANDAS.fullmatch(value) else value


def read_parquet(path: Path, what: str) -> Iterator[tuple[str, int, dict]]:
    """Yields (place, row from 0, fields), batch by batch. Raises InputError for what is no whole Parquet."""
    import pyarrow
    import pyarrow.parquet

    require_file(path, what)
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} can't be read as Parquet ({error}): is it complete?") from error
    with file:
        row = 0
        for batch in file.iter_batches(batch_size=4096):
            for fields in batch.to_pylist():
                yield f"{path} row {row}", row, without_nothing(fields)
                row += 1


def without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what a table has to hold where a record has no such field."""
    return {name: value for name, value in fields.items() if value is not None}


def as_list(value: Any) -> Any:
    """A list of texts and nulls that a value holds as text (JSON's, Python's or NumPy's), else the value."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for parse in (json.loads, _python_list):
            try:
                found = parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list) and all(isinstance(item, str | None) for item in found):
                return found
    return value


def list_in_cell(cell: str) -> Any:
    """As `as_list`; a list may hold numbers too, which tables write without quotes: they are the texts that
    are written, and `nan` is null.
    """
    text = cell.strip()
    if _NUMBERS.fullmatch(text):
        return re.findall(_NUMBER, text)
    found = as_list(cell)
    if isinstance(found, list) or not text.startswith("["):
        return found
    try:
        written = ast.parse(text, mode="eval").body
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return cell
    items = written.elts if isinstance(written, ast.List) else []
    try:
        return [_item(item, text) for item in items] or cell
    except ValueError:
        return cell


def _item(item: ast.expr, text: str) -> str | None:
    """An item of a list that is written in `text`. Raises ValueError for what is no text, number or null."""
    if isinstance(item, ast.Constant) and isinstance(item.value, str | None):
        return item.value
    written = ast.get_source_segment(text, item) or ""
    if written in ("null", "nan", "NaN"):
        return None
    if not re.fullmatch(_NUMBER, written):
        raise ValueError
    return written


def _python_list(cell: str) -> Any:
    """The value of a Python literal. NumPy writes no commas, and Python joins texts without one between."""
    found = ast.literal_eval(cell.strip())
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        return found
    tokens = tokenize.generate_tokens(io.StringIO(cell.strip()).readline)
    texts = [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]
    return texts if len(texts) > len(found) else found
