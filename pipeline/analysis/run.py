"""`open_run`: the tables of one or several runs as DuckDB views over their Parquet files, nothing copied."""

from __future__ import annotations

import os

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.locate import AnalysisError, RunLocation, locate_run
from pipeline.analysis.named_queries import named_query
from pipeline.analysis.sandbox import (
    check_is_question,
    connect,
    explain_error,
    lock,
    sql_files,
    sql_text,
    sql_without_rows,
)
from pipeline.analysis.tables_beside import BESIDE
from pipeline.rollout_log.folder import LogFolder, RemoteFolder, RolloutLogError
from pipeline.rollout_log.manifest import Manifest, check_files, load_manifest
from pipeline.rollout_log.schema import TABLES

COLUMNS = {name: schema.names for name, schema in TABLES.items()} | {
    table.view: table.columns for table in BESIDE
}


GONE = (duckdb.IOException, duckdb.PermissionException)
"""What DuckDB raises for a file that is not there any more, before and after it was locked."""
DAMAGE = (duckdb.IOException, duckdb.InvalidInputException, pa.ArrowInvalid)
"""What DuckDB and Arrow raise for a file that is no whole Parquet file."""


def open_run(
    *runs: str | os.PathLike[str], runs_dir: str | os.PathLike[str] = "runs", memory_gib: float | None = None
) -> Run:
    """Opens the logs of `runs` (folders, experiment names, run ids, URLs, `last`; default: `last`) as one
    database.

    Args:
        runs: the runs.
        runs_dir: folder of all runs, where names, ids and `last` are looked up.
        memory_gib: the database's memory; None: half of what this process may use.

    Raises AnalysisError if a run does not exist, has nothing in its log yet, or its log cannot be read.
    """
    return Run([locate_run(run, runs_dir) for run in runs or ("last",)], memory_gib)


class Run:
    """Views `runs`, `iterations`, `episodes`, `turns`, `groups`, `tool_calls` and `tokens` over the logs of
    one or several runs; `recredits` and `counterfactuals` over what `igpo recredit` and `igpo counterfactual`
    wrote beside them before they were opened.

    Rows of iterations that a resumed attempt ran again are hidden. Every call sees the log as it then is; a
    relation that is older than a merge of the log has to be asked for again.
    """

    def __init__(self, locations: list[RunLocation], memory_gib: float | None = None):
        self.locations = locations
        self._memory_gib = memory_gib
        self._manifests, self._connection = self._opened()

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Returns the answer as a DuckDB relation: `.show()`, `.fetchall()`, `.df()`, `.pl()`,
        `.to_arrow_table()`.

        Raises AnalysisError if the query would write, names an unknown table or column, or cannot be parsed.
        """
        connection = self._current()
        check_is_question(connection, query)
        try:
            return connection.sql(query)
        except duckdb.Error as error:
            if isinstance(error, GONE) and self._was_merged(self._manifests):
                return self.sql(query)
            raise AnalysisError(explain_error(error, query, COLUMNS)) from error

    def named(self, name: str) -> duckdb.DuckDBPyRelation:
        """Returns the answer of a shipped query (`named_queries()` lists them)."""
        return self.sql(named_query(name).sql)

    def table(self, name: str) -> duckdb.DuckDBPyRelation:
        if name not in TABLES:
            raise AnalysisError(f"there is no table {name!r}; the log has {', '.join(TABLES)}")
        return self._current().view(name)

    def runs(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per attempt."""
        return self.table("runs")

    def iterations(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per iteration and split."""
        return self.table("iterations")

    def episodes(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per rollout."""
        return self.table("episodes")

    def turns(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per turn."""
        return self.table("turns")

    def groups(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per group of rollouts of one prompt."""
        return self.table("groups")

    def tool_calls(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per tool call."""
        return self.table("tool_calls")

    def tokens(self) -> duckdb.DuckDBPyRelation:
        """Returns one row per token; empty unless the run had `log_tokens: true`."""
        return self.table("tokens")

    @property
    def run_ids(self) -> list[str]:
        """The ids of the runs, in the order in which they were named."""
        return [manifest.run_id for manifest in self._manifests]

    def interrupt(self) -> None:
        """Stops a query that another thread waits for; it raises `duckdb.InterruptException` there."""
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Closes the database. A file that a query met damaged, or not any more, becomes an AnalysisError."""
        self.close()
        if isinstance(error, GONE) and self._was_merged(self._manifests):
            raise AnalysisError("the run merged its log while it was read: ask again") from error
        if isinstance(error, DAMAGE):
            raise _damaged(error) from error

    def _current(self) -> duckdb.DuckDBPyConnection:
        if self._was_merged(self._manifests):  # Relations of the old connection keep it alive.
            self._manifests, self._connection = self._opened()
        return self._connection

    def _opened(self) -> tuple[list[Manifest], duckdb.DuckDBPyConnection]:
        """The log as it now is. A merge that takes files away meanwhile has it opened again."""
        while True:
            manifests = self._load()
            try:
                return manifests, self._database(manifests)
            except AnalysisError:
                if not self._was_merged(manifests):
                    raise

    def _was_merged(self, manifests: list[Manifest]) -> bool:
        """Whether the files that `manifests` name have been replaced, or others were added."""
        return [m.generation for m in self._load()] != [m.generation for m in manifests]

    def _database(self, manifests: list[Manifest]) -> duckdb.DuckDBPyConnection:
        beside = {
            table.view: [file for location in self.locations for file in table.files(location.folder)]
            for table in BESIDE
        }
        for table in BESIDE:
            table.check(beside[table.view])
        try:
            return _database(self._logs(manifests), beside, self._memory_gib)
        except (*DAMAGE, FileNotFoundError) as error:
            raise _damaged(error) from error

    def _load(self) -> list[Manifest]:
        try:
            return [load_manifest(location.log) for location in self.locations]
        except RolloutLogError as error:
            raise AnalysisError(str(error)) from error

    def _logs(self, manifests: list[Manifest]) -> list[tuple[LogFolder, Manifest]]:
        """Folder and manifest of each run, with all files in place. Raises AnalysisError."""
        logs = [
            (location.log, manifest) for location, manifest in zip(self.locations, manifests, strict=True)
        ]
        try:
            for folder, manifest in logs:
                check_files(folder, manifest)
        except RolloutLogError as error:
            raise AnalysisError(str(error)) from error
        ids = [manifest.run_id for manifest in manifests]
        if twice := sorted({run_id for run_id in ids if ids.count(run_id) > 1}):
            raise AnalysisError(f"the same run was given twice: {', '.join(twice)}")
        if not any(manifest.of("iterations") for manifest in manifests):
            where = ", ".join(str(folder) for folder, _ in logs)
            raise AnalysisError(
                f"the log in {where} is empty: the run has not finished its first iteration yet"
            )
        return logs


def _database(
    logs: list[tuple[LogFolder, Manifest]], beside: dict[str, list[str]], memory_gib: float | None
) -> duckdb.DuckDBPyConnection:
    files = {
        name: [folder.path(file.path) for folder, manifest in logs for file in manifest.of(name)]
        for name in TABLES
    }
    superseded = " OR ".join(_superseded(logs))
    connection = connect(memory_gib)
    for filesystem in {
        id(folder.filesystem): folder.filesystem for folder, _ in logs if isinstance(folder, RemoteFolder)
    }.values():
        connection.register_filesystem(filesystem)
    for name, schema in TABLES.items():
        # What has no rows gives a view its columns and types where no file, or only files of older versions,
        # are there.
        source = sql_without_rows(connection, schema)
        if files[name]:
            paths = sql_files(files[name])
            source += f" UNION ALL BY NAME SELECT * FROM read_parquet({paths}, union_by_name = true)"
        hide = f" WHERE NOT ({superseded})" if superseded and name != "runs" else ""
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM ({source}){hide}")
    for table in BESIDE:
        table.create_view(connection, beside[table.view])
    lock(connection, [path for paths in (*files.values(), *beside.values()) for path in paths])
    return connection


def _damaged(error: BaseException) -> AnalysisError:
    return AnalysisError(
        f"the log cannot be read: {' '.join(str(error).split())}; restore the file from a copy"
    )


def _superseded(logs: list[tuple[LogFolder, Manifest]]) -> list[str]:
    """Conditions on rows that a later attempt replaced: attempt a, iteration i, where some b > a resumed
    before i.
    """
    resumed: dict[str, dict[int, int | None]] = {}
    for folder, manifest in logs:
        for file in manifest.of("runs"):
            with folder.open(file.path) as opened:
                rows = pq.read_table(
                    opened, columns=["run_id", "attempt", "resumed_from_iteration"]
                ).to_pylist()
            for row in rows:
                resumed.setdefault(row["run_id"], {})[row["attempt"]] = row["resumed_from_iteration"]
    conditions = []
    for run_id, attempts in resumed.items():
        for attempt in attempts:
            later = [origin for other, origin in attempts.items() if other > attempt and origin is not None]
            if later:
                conditions.append(
                    f"(run_id = {sql_text(run_id)} AND attempt = {attempt} AND iteration > {min(later)})"
                )
    return conditions
