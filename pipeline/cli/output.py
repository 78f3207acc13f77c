"""Query results for people (a table) and for programs (CSV, JSON, Parquet)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from rich.text import Text

from envs.errors import InputError
from pipeline.analysis.answers import CELL_CHARACTERS, answer_text, cell, write_answer
from pipeline.fitted_table import Column, print_fitted
from pipeline.terminal import Console

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

FORMATS = ("table", "csv", "json", "parquet")
MORE_COLUMNS = "SELECT the ones you want, or write all to a file: --out answer.csv"
PIPED_WIDTH = 100_000


def interruptibly(work: Callable[[], T], interrupt: Callable[[], object]) -> T:
    """Does `work` in a thread, because DuckDB hears no Ctrl-C while it computes; returns its result.

    Raises KeyboardInterrupt after Ctrl-C, once `interrupt` has stopped the work.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="query", daemon=True).start()
    try:
        wait([done])
    except KeyboardInterrupt:
        while not wait([done], timeout=0.1).done:  # it may be between two statements
            interrupt()
        raise
    return done.result()


def make_console() -> Console:
    """Makes a console on stdout. A pipe has no width to fit, unless COLUMNS says one: programs and pagers
    get whole lines.
    """
    console = Console()
    columns = os.environ.get("COLUMNS", "")
    has_width = console.is_terminal or (columns.isdecimal() and int(columns) > 0)
    return console if has_width else Console(width=PIPED_WIDTH)


def write_result(
    relation: duckdb.DuckDBPyRelation, format: str, out: Path | None, rows: int, console: Console
) -> None:
    """Prints a query's answer, or writes it to `out`.

    Args:
        relation: the query's answer.
        format: one of `FORMATS`. A `table` is written to a file as its ending says, else as CSV.
        out: the file to write; None prints.
        rows: rows that a printed table shows; 0: all.
        console: where to print.

    Raises:
        InputError: the answer cannot be written there.
    """
    if format == "table" and out is None:
        print_table(relation, rows, console)
        return
    if format == "parquet" and out is None:
        raise InputError("--format parquet needs --out FILE: Parquet is not text.")
    if format == "table" and out is not None:
        ending = out.suffix.removeprefix(".").lower()
        format = ending if ending in ("json", "parquet") else "csv"
    answer = relation.to_arrow_table()
    try:
        if out is None:
            console.out(answer_text(answer, format), end="")
        else:
            write_answer(answer, format, out)
            console.print(f"{answer.num_rows} rows to {out}", soft_wrap=True)
    except OSError as error:
        raise InputError(f"{out}: the answer cannot be written: {error.strerror or error}.") from error


def print_table(relation: duckdb.DuckDBPyRelation, rows: int, console: Console) -> None:
    """Prints the first `rows` rows (0: all) as a table; a last line says if there are more."""
    answer = (relation.limit(rows + 1) if rows else relation).to_arrow_table()
    if relation.columns == ["explain_key", "explain_value"]:  # A drawing over many lines, not a table.
        for drawing in answer.column("explain_value").to_pylist():
            console.out(drawing)
        return
    columns = []
    for name, kind, values in zip(relation.columns, relation.types, answer.columns, strict=True):
        column = Column(name, [], is_number=_is_number(str(kind)))
        longest = None if column.is_identity else CELL_CHARACTERS
        listed = values.slice(0, rows or None).to_pylist(maps_as_pydicts="strict")
        columns.append(replace(column, cells=[Text(cell(value, longest)) for value in listed]))
    if not answer.num_rows:
        console.print(f"no rows; columns: {', '.join(relation.columns)}", style="dim")
        return
    print_fitted(console, columns, more=MORE_COLUMNS)
    if rows and answer.num_rows > rows:
        console.print(f"first {rows} rows; --rows 0 shows all", style="dim")


def _is_number(kind: str) -> bool:
    return kind.endswith("INT") or kind.startswith(("INT", "DOUBLE", "FLOAT", "DECIMAL", "BIGINT", "UBIGINT"))
