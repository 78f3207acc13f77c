"""The view `recredits`: what other estimators would have given, a row per turn and estimator given to `igpo
recredit`.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.sandbox import sql_files

FOLDER = "recredit"
"""In the run's folder: a Parquet file per estimator."""
SCHEMA = pa.schema(
    {
        "run_id": pa.string(),
        "iteration": pa.int32(),
        "group_id": pa.string(),
        "episode_id": pa.string(),
        "turn_index": pa.int32(),
        "agent": pa.string(),
        "gain": pa.float64(),
        "normalised_gain": pa.float64(),
        "clip_scale": pa.float64(),
        "advantage_logged": pa.float64(),
        "advantage": pa.float64(),
    }
)
"""One row per turn that training used; the names are those of the log's table `turns`."""
COLUMNS = ["estimator", *SCHEMA.names]


def recredit_files(run_folder: Path) -> list[str]:
    """Returns the files of a run, by name."""
    return [str(path) for path in sorted((run_folder / FOLDER).glob("*.parquet"))]


def check_files(files: list[str]) -> None:
    """Raises AnalysisError for a file that is no whole Parquet file."""
    for path in files:
        try:
            pq.read_schema(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise AnalysisError(
                f"{path}: this file is damaged ({error}): remove it, `igpo recredit` writes it again"
            ) from error


def create_view(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    """Creates `recredits` over `files`; `estimator` is the file's name."""
    connection.register("template", SCHEMA.empty_table())
    types = [(row[0], row[1]) for row in connection.execute("DESCRIBE template").fetchall()]
    connection.unregister("template")
    empty = ", ".join(f'CAST(NULL AS {kind}) AS "{column}"' for column, kind in types)
    source = f"SELECT CAST(NULL AS VARCHAR) AS estimator, {empty} WHERE false"
    if files:
        name = r"regexp_extract(filename, '([^/\\]+)\.parquet$', 1)"
        source += (
            f" UNION ALL BY NAME SELECT {name} AS estimator, * EXCLUDE (filename)"
            f" FROM read_parquet({sql_files(files)}, filename = true, union_by_name = true)"
        )
    connection.execute(f"CREATE VIEW recredits AS {source}")
