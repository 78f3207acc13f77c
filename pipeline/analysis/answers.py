"""A query's answer as plain Python, as text, or as a file that other programs read."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from envs.durable import write_file, write_text

if TYPE_CHECKING:
    import duckdb
CELL_CHARACTERS = 200
"""Longest text that `cell` shows whole."""
ROUNDING = 1e-14
"""A number nearer to 0 is what rounding leaves of a sum or mean that is 0."""


def rows_of(answer: pa.Table | duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    """Returns column name to value, per row; a map becomes a dict, null becomes None."""
    table = answer if isinstance(answer, pa.Table) else answer.to_arrow_table()
    return table.to_pylist(maps_as_pydicts="strict")


def answer_text(answer: pa.Table, format: str) -> str:
    """`csv` (lists and maps as JSON) or `json`."""
    if format == "json":
        return as_json(rows_of(answer), indent=1) + "\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.column_names)
    for row in rows_of(answer):
        writer.writerow(
            [as_json(value) if isinstance(value, list | dict) else value for value in row.values()]
        )
    return text.getvalue()


def write_answer(answer: pa.Table, format: str, out: Path) -> None:
    """`csv`, `json` or `parquet`. Raises OSError."""
    if format == "parquet":
        import pyarrow.parquet as pq

        write_file(out, lambda file: pq.write_table(answer, file, compression="zstd"))
    else:
        write_text(out, answer_text(answer, format))


def cell(value: Any, longest: int | None = CELL_CHARACTERS) -> str:
    """Returns a value as one short line: four significant digits, no control characters (a model may write
    any), at most `longest` characters (None: all).
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{0.0 if abs(value) < ROUNDING else value:.4g}"  # A zero without sign.
    text = (
        value
        if isinstance(value, str)
        else as_json(value)
        if isinstance(value, list | dict | tuple)
        else str(value)
    )
    text = "".join(
        c if c.isprintable() else "↵" if c == "\n" else "\t" if c == "\t" else f"\\x{ord(c):02x}"
        for c in text
    )
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"


def as_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON, which lacks NaN and infinities: they become null."""
    return json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
