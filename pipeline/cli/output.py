"""Query results for people (a table) and for programs (CSV, JSON, Parquet)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from rich.table import Table
from rich.text import Text

from envs.errors import InputError
from pipeline.analysis.answers import answer_text, cell, rows_of, write_answer
from pipeline.terminal import Console

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

FORMATS = ("table", "csv", "json", "parquet")
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
    """Makes a console on stdout. A pipe has no width to fit: programs and pagers get whole lines."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


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
    if format not in FORMATS:
        raise InputError(f"--format {format}: it must be one of {', '.join(FORMATS)}.")
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
    shown = relation.limit(rows + 1) if rows else relation
    answer = rows_of(shown)
    if relation.columns == ["explain_key", "explain_value"]:  # A drawing over many lines, not a table.
        for row in answer:
            console.out(row["explain_value"])
        return
    table = Table(header_style="bold")
    for name, kind in zip(relation.columns, relation.types, strict=True):
        table.add_column(Text(name), justify="right" if _is_number(str(kind)) else "left", overflow="fold")
    for row in answer[: rows or None]:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    console.print(table)
    if rows and len(answer) > rows:
        console.print(f"first {rows} rows; --rows 0 shows all", style="dim")


def _is_number(kind: str) -> bool:
    return kind.endswith("INT") or kind.startswith(("INT", "DOUBLE", "FLOAT", "DECIMAL", "BIGINT", "UBIGINT"))
