"""`igpo sql`, `igpo schema`, `igpo compact`: query, explain and merge the rollout log.

`igpo` mounts these functions.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envs.errors import InputError
from pipeline.cli.complete import complete_question, complete_run
from pipeline.cli.options import RunName, RunsDir
from pipeline.exit_codes import INTERRUPTED
from pipeline.terminal import Console, say

if TYPE_CHECKING:
    from pipeline.analysis import Run


def sql_command(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='RUN... "QUERY"',
            help="Runs (a folder, a name, a run id, `last`), then the question in SQL.",
            autocompletion=complete_run,
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the query from a file.")] = None,
    named: Annotated[
        str | None,
        typer.Option(
            "--named",
            "-n",
            help="Ask a shipped question; --list shows them.",
            autocompletion=complete_question,
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the shipped questions and end.")] = False,
    format: Annotated[str, typer.Option(help="table, csv, json or parquet.")] = "table",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the answer to a file, as its ending or --format says; else CSV."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows that a table shows; 0: all.")] = 50,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB", help="Memory for the query; without it, half of what this process may use."
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Ask the rollout log of one or several runs in SQL (DuckDB's): which turns earned reward, and was it
    deserved?

    Tables: `runs`, `iterations`, `episodes`, `turns`, `groups`, `tool_calls`, `tokens`; `igpo schema`
    explains every column. The log is read-only. Without a query, a prompt with history opens.

    Examples:

    - `igpo sql last "SELECT turn_index, avg(gain) FROM turns GROUP BY ALL ORDER BY ALL"`
    - `igpo sql last --named advantage_collapse`
    - `igpo sql igpo igpo-grpo --named learning_curve --out curves.parquet`
    - `igpo sql runs/igpo/RUN_ID --file question.sql`
    - `igpo sql last` (a prompt)
    """
    from pipeline.cli.output import FORMATS, interruptibly, make_console, write_result

    console = make_console()
    if format not in FORMATS:
        raise InputError(f"--format {format}: it must be one of {', '.join(FORMATS)}.")
    if list_:
        _list_questions(format, out, console)
        return
    runs, query = _runs_and_query(list(words or []), file, named)
    from pipeline.analysis import open_run
    from pipeline.analysis.partial_recredits import partial_recredits

    if memory is not None and not 0.1 <= memory < 1e6:
        raise InputError(f"--memory {memory:g}: it must be 0.1 GiB or more.")
    with open_run(*runs, runs_dir=runs_dir, memory_gib=memory) as run:
        for location in run.locations:
            if location.choice:
                Console(stderr=True).print(location.choice, style="dim", soft_wrap=True)
        if query is None and sys.stdin.isatty():
            from pipeline.cli.log.sql_prompt import SqlPrompt

            SqlPrompt(run, rows, console).cmdloop()
            return
        asked = _read_stdin() if query is None else query

        def answer() -> None:
            _answer(run, asked, lambda relation: write_result(relation, format, out, rows, console))
            for sentence in partial_recredits(run, asked):
                say(sentence, error=True)

        try:
            interruptibly(answer, run.interrupt)
        except KeyboardInterrupt:
            say("stopped", error=True)
            raise typer.Exit(INTERRUPTED) from None


def _answer(run: Run, query: str, use) -> None:
    """Runs the query and passes its answer to `use`; once more if the log's files were merged in between."""
    import duckdb

    try:
        try:
            use(run.sql(query))
        except duckdb.IOException:
            use(run.sql(query))
    except duckdb.OutOfMemoryException as error:
        raise InputError("the query needs more memory: raise --memory, or ask for less") from error
    except duckdb.Error as error:  # Found only while running: a cast that fails, a division, memory.
        raise InputError(str(error).strip()) from error


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"the query on standard input cannot be read: {error}.") from error


def _runs_and_query(words: list[str], file: Path | None, named: str | None) -> tuple[list[str], str | None]:
    """Splits the positional words: a last one that has white space and is not a folder is the query."""
    inline = (
        words.pop()
        if words and any(c.isspace() for c in words[-1]) and not os.path.exists(words[-1])
        else None
    )
    given = [
        name
        for name, value in (("a query", inline), ("--file", file), ("--named", named))
        if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} were given: ask one thing at a time.")
    if named is not None:
        from pipeline.analysis.named_queries import named_query

        return words, named_query(named).sql
    if file is not None:
        try:
            return words, file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: the query cannot be read: {error}.") from error
    return words, inline


def _list_questions(format: str, out: Path | None, console: Console) -> None:
    import duckdb
    import pyarrow as pa

    from pipeline.analysis.named_queries import named_queries
    from pipeline.cli.output import write_result

    questions = [{"name": query.name, "question": query.question} for query in named_queries().values()]
    with duckdb.connect() as database:
        write_result(database.from_arrow(pa.Table.from_pylist(questions)), format, out, 0, console)


def schema_command(
    table: Annotated[str | None, typer.Argument(help="One table; without it, all.")] = None,
    format: Annotated[str, typer.Option(help="table or markdown.")] = "table",
) -> None:
    """Explain every column of the rollout log.

    Examples:

    - `igpo schema turns`
    - `igpo schema --format markdown` (what the documentation shows)
    """
    from difflib import get_close_matches

    from rich.table import Table

    from pipeline.cli.output import make_console
    from pipeline.rollout_log.schema import SCHEMA_VERSION, TABLES, describe

    if format not in ("table", "markdown"):
        raise InputError(f"--format {format}: it must be table or markdown.")
    if table is not None and table not in TABLES:
        near = get_close_matches(table, TABLES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TABLES)}."
        raise InputError(f"there is no table {table}; {hint}")
    console = make_console()
    if format == "markdown":
        console.out(schema_markdown([table] if table else list(TABLES)), end="")
        return
    for name in [table] if table else TABLES:
        description, columns = describe(name)
        shown = Table(
            "column",
            "type",
            "meaning",
            title=f"{name}: {description}",
            title_justify="left",
            header_style="bold",
        )
        for column in columns:
            shown.add_row(column.name, str(column.type), column.description)
        console.print(shown)
    console.print(f"schema version {SCHEMA_VERSION}", style="dim")


def schema_markdown(tables: list[str]) -> str:
    """Lists the tables' columns in Markdown, for the documentation."""
    from pipeline.rollout_log.schema import describe

    parts = []
    for name in tables:
        description, columns = describe(name)
        lines = [f"### `{name}`", "", description, "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {c.description.replace('|', chr(92) + '|')} |" for c in columns]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def compact_command(
    run: RunName,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Merge the log of a run that died into one file per table; a run that ends does this itself.

    Examples:

    - `igpo compact last`
    - `igpo compact runs/igpo/RUN_ID`
    """
    from contextlib import nullcontext

    from pipeline.analysis.locate import locate_folder
    from pipeline.rollout_log.folder import LocalFolder, RolloutLogError
    from pipeline.rollout_log.store import compact
    from pipeline.run_directory.directory import RunDirectory

    location = locate_folder(run, runs_dir, what="tells by its lock whether the log is still being written")
    has_own_lock = isinstance(location.log, LocalFolder)
    try:
        with nullcontext() if has_own_lock else RunDirectory(location.folder).lock():
            counts = compact(location.log)
    except RolloutLogError as error:
        raise InputError(str(error)) from error
    before, after = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    say(f"{location.log}: {before} files before, {after} after")
