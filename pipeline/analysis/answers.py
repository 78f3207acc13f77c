"""A query's answer as text or as a file that other programs read."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.analysis.cell import as_json

if TYPE_CHECKING:
    import pyarrow as pa


def answer_rows(answer: pa.Table) -> list[dict[str, Any]]:
    """One dictionary per row, maps as dictionaries."""
    return answer.to_pylist(maps_as_pydicts="strict")


def answer_text(answer: pa.Table, format: str) -> str:
    """`csv` (lists and maps as JSON) or `json`."""
    if format == "json":
        return as_json(answer_rows(answer), indent=1) + "\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.column_names)
    for row in answer_rows(answer):
        writer.writerow([as_json(value) if isinstance(value, list | dict) else value for value in row.values()])
    return text.getvalue()


def write_answer(answer: pa.Table, format: str, out: Path) -> None:
    """`csv`, `json` or `parquet`. Raises OSError."""
    if format == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(answer, out, compression="zstd")
    else:
        out.write_text(answer_text(answer, format), encoding="utf-8")
