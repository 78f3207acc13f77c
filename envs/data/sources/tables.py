"""Records of CSV, TSV and Parquet files."""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from envs.data.jsonl import DAMAGE, require_file
from envs.errors import InputError

_MADE_BY_PANDAS = re.compile(r"-?\d+\.0")
"""A whole number in a column where others were missing."""


def open_text(path: Path) -> IO[bytes]:
    """Opens a file, through gzip where its name ends in `.gz`."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def read_csv(path: Path, what: str, delimiter: str) -> Iterator[tuple[str, int, dict]]:
    """Yields (place, row from 0, fields) of a CSV with a header. Values are text; empty ones are left out.

    Raises:
        InputError: the file is missing, not UTF-8, or a row has more values than the header.
    """
    require_file(path, what)
    csv.field_size_limit(sys.maxsize)
    with open_text(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, delimiter=delimiter, restkey="")
        try:
            for row, fields in enumerate(reader):
                where = f"{path}:{reader.line_num}"
                if "" in fields and fields[""]:
                    raise InputError(f"{where}: more values than the header has names")
                yield where, row, {name: _cell(value) for name, value in fields.items() if value}
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error.reason}): save the file as UTF-8") from error
        except (csv.Error, *DAMAGE) as error:
            raise InputError(f"{path}:{reader.line_num}: not valid CSV ({error})") from error


def _cell(value: str) -> str:
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
                yield f"{path} row {row}", row, _without_nothing(fields)
                row += 1


def _without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what a table has to hold where a record has no such field."""
    return {name: value for name, value in fields.items() if value is not None}
