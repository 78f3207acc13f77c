"""What commands wrote beside a run's log, as views: `recredits` (other estimators' credit) and
`counterfactuals` (what turns were worth).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.sandbox import sql_files, sql_without_rows


@dataclass(frozen=True)
class TableBeside:
    """A view over the Parquet files of one folder of a run."""

    view: str
    folder: str
    """In the run's folder."""
    key: str
    """The view's first column: the file's name."""
    command: str
    """What writes the files."""
    schema: pa.Schema

    @property
    def columns(self) -> list[str]:
        return [self.key, *self.schema.names]

    def files(self, run_folder: Path) -> list[str]:
        """Returns the files of a run, by name."""
        return [str(path) for path in sorted((run_folder / self.folder).glob("*.parquet"))]

    def check(self, files: list[str]) -> None:
        """Raises AnalysisError for a file that is no whole Parquet file."""
        for path in files:
            try:
                pq.read_schema(path)
            except (OSError, pa.ArrowInvalid) as error:
                raise AnalysisError(
                    f"{path}: this file is damaged ({error}): remove it, `{self.command}` writes it again"
                ) from error

    def create_view(self, connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
        """Creates the view over `files`; without any it is empty."""
        source = sql_without_rows(connection, self.schema.insert(0, pa.field(self.key, pa.string())))
        if files:
            name = r"regexp_extract(filename, '([^/\\]+)\.parquet$', 1)"
            source += (
                f" UNION ALL BY NAME SELECT {name} AS {self.key}, * EXCLUDE (filename)"
                f" FROM read_parquet({sql_files(files)}, filename = true, union_by_name = true)"
            )
        connection.execute(f"CREATE VIEW {self.view} AS {source}")


_TURN = {
    "run_id": pa.string(),
    "iteration": pa.int32(),
    "group_id": pa.string(),
    "episode_id": pa.string(),
    "turn_index": pa.int32(),
    "agent": pa.string(),
}
"""What names a turn, as in the log's table `turns`."""

RECREDITS = TableBeside(
    "recredits",
    "recredit",
    "estimator",
    "igpo recredit",
    pa.schema(
        {
            **_TURN,
            "gain": pa.float64(),
            "normalised_gain": pa.float64(),
            "clip_scale": pa.float64(),
            "advantage_logged": pa.float64(),
            "advantage": pa.float64(),
        }
    ),
)
"""One row per turn that training used."""
COUNTERFACTUALS = TableBeside(
    "counterfactuals",
    "counterfactual",
    "scored_by",
    "igpo counterfactual",
    pa.schema(
        {
            **_TURN,
            "action": pa.string(),
            "belief": pa.float64(),
            "belief_without": pa.float64(),
            "worth": pa.float64(),
            "told_belief": pa.float64(),
            "told_belief_without": pa.float64(),
            "told_worth": pa.float64(),
        }
    ),
)
"""One row per gain-bearing turn; the columns are those of
`pipeline.analysis.offline.counterfactual.TurnWorth`.
"""
BESIDE = (RECREDITS, COUNTERFACTUALS)
