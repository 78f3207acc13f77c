"""A DuckDB connection that can read a log's files and do nothing else.

Files outside the list, the network, extensions and settings are closed off by DuckDB's own switches (the
allowed files stay readable when external access is off); statements that are not a question are refused
before they run.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from difflib import get_close_matches
from pathlib import Path
from textwrap import shorten

import duckdb
import pyarrow as pa

from envs.memory import total_memory
from pipeline.analysis.locate import AnalysisError

_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?", re.IGNORECASE)
"""Without options in brackets: a comment among them could hide from us where the explained statement begins.
"""

_NO_COLUMN = re.compile(
    r'column "([^"]+)" not found|does not have a column named "([^"]+)"|Column "([^"]+)" (?:does not '
    r"exist|in \w+ list not found)"
)


_FROM = re.compile(r'\b(?:from|join)\s+"?(\w+)')
"""A table that a query in small letters asks."""
KEYS = ("run_id", "attempt", "schema_version")
"""Columns of nearly every table, which nobody misspells."""
LISTED = 180
"""Characters of the columns that a message lists."""


def connect(memory_gib: float | None = None) -> duckdb.DuckDBPyConnection:
    """Returns an empty in-memory database that never fetches extensions.

    Args:
        memory_gib: its memory; None: half of what this process may use. Four times as much goes to disk.
    """
    limit = total_memory() / 2**31 if memory_gib is None else memory_gib
    connection = duckdb.connect(
        config={
            "memory_limit": f"{limit:.3f}GiB",
            "max_temp_directory_size": f"{4 * limit:.3f}GiB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
            "temp_directory": str(Path(tempfile.gettempdir()) / f"igpo-sql-{os.getuid()}"),
        }
    )
    connection.execute("SET enable_progress_bar = false")  # It would go to standard output, into the answer.
    return connection


def lock(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    """Leaves `files` readable and closes everything else; it cannot be opened again."""
    allowed = sorted({*files, *map(_pattern, files)})  # DuckDB asks for the pattern, then for what it fits
    connection.execute("SET allowed_paths = " + sql_list(allowed))
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def sql_list(texts: list[str]) -> str:
    return "[" + ", ".join(sql_text(text) for text in texts) + "]"


def sql_files(paths: list[str]) -> str:
    """Paths and URLs for `read_parquet`, which reads `*`, `?` and `[` of a path as a pattern."""
    return sql_list([_pattern(path) for path in paths])


def sql_without_rows(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> str:
    """A SELECT without rows, whose columns have the names and types of `schema`."""
    connection.register("template", schema.empty_table())
    types = connection.execute("DESCRIBE template").fetchall()
    connection.unregister("template")
    columns = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind, *_ in types)
    return f"SELECT {columns} WHERE false"


def _pattern(path: str) -> str:
    return path if "://" in path else glob.escape(path)


def sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def check_is_question(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raises AnalysisError unless `query` is one statement that only reads."""
    if query != query.encode(errors="replace").decode():
        raise AnalysisError("the query holds bytes that are not UTF-8")
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise AnalysisError(_first_lines(error)) from error
    if not statements:
        raise AnalysisError(
            "the query is empty; try: SELECT turn_index, avg(gain) FROM turns GROUP BY ALL ORDER BY ALL"
        )
    if len(statements) > 1:
        raise AnalysisError(f"one statement at a time, this is {len(statements)}")
    kind = _kind(statements[0])
    if kind == duckdb.StatementType.SELECT:
        return
    if kind == duckdb.StatementType.EXPLAIN and (explained := _EXPLAIN.match(query)):
        if query.startswith("(", explained.end()):
            raise AnalysisError(
                "EXPLAIN takes no options here: EXPLAIN SELECT ..., or EXPLAIN ANALYZE SELECT ..."
            )
        return check_is_question(connection, query[explained.end() :])
    if kind == duckdb.StatementType.MULTI:
        raise AnalysisError(
            "PIVOT needs its values spelled out here: PIVOT turns ON action IN ('tool', 'answer') USING "
            "count(*)"
        )
    refused = kind.name if kind else "this statement"
    raise AnalysisError(
        f"{refused} is refused: a run's log is read-only. Ask with SELECT (also FROM, WITH, DESCRIBE, "
        "SUMMARIZE, EXPLAIN); write results with --format and --out"
    )


def _kind(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """None for a kind that DuckDB's Python package has no name for (`UPDATE EXTENSIONS`)."""
    try:
        return statement.type
    except ValueError:
        return None


def explain_error(error: duckdb.Error, query: str, tables: dict[str, list[str]]) -> str:
    """DuckDB's message on `query`, with the nearest of the log's own tables or columns (`tables` maps names
    to columns).
    """
    message = _first_lines(error)
    if found := re.search(r"Table with name (\w+) does not exist", message):
        name = found.group(1)
        near = get_close_matches(name.lower(), tables, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"there is no table {name}; {hint}The log has {', '.join(tables)}"
    if column := _NO_COLUMN.search(message):
        name = next(group for group in column.groups() if group)
        owners: dict[str, list[str]] = {}
        for table, columns in tables.items():
            for known in columns:
                owners.setdefault(known, []).append(table)
        if name in owners:
            return f"there is no column {name} here; {' and '.join(owners[name])} have it"
        asked = [table for table in _FROM.findall(query.lower()) if table in tables]
        hint = _nearest(name.lower(), tables, owners, list(dict.fromkeys(asked)))
        text = f" If it is text, use single quotes: '{name}'" if f'"{name}"' in query else ""
        return f"there is no column {name}{hint}{text}"
    return message


def _nearest(name: str, tables: dict[str, list[str]], owners: dict[str, list[str]], asked: list[str]) -> str:
    """The column that is most like `name`: of the tables `asked`, else of others if it is very alike; else
    what is in the first of the tables.
    """
    here = {column for table in asked for column in tables[table]}
    near = get_close_matches(name, here, n=1, cutoff=0.5)
    if not near:
        near = get_close_matches(name, owners, n=1, cutoff=0.7 if asked else 0.5)
    if near:
        places = [table for table in owners[near[0]] if table in asked] or owners[near[0]]
        return f"; did you mean {near[0]} (in {', '.join(places)})?"
    if not asked:
        return " (`igpo schema TABLE` lists them)"
    own = [column for column in tables[asked[0]] if column not in KEYS]
    columns = shorten(", ".join(own), LISTED, placeholder=" ...")
    return f"; {asked[0]} has {columns} (`igpo schema {asked[0]}`)"


def _first_lines(error: duckdb.Error) -> str:
    """Returns the message without the repeated query; the kind of error ("Binder Error: ") stays in front."""
    return str(error).split("\n\nLINE", 1)[0].strip()
