"""The watch for a coming collapse while a run trains: the named query `collapse_watch` over the iterations so
far.

The rule is `queries/collapse_watch.sql` and nothing else, so a line on the terminal and `igpo sql RUN --named
collapse_watch` afterwards say the same (definitions: Collapse of a run).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.analysis.named_queries import named_query
from pipeline.analysis.run import Run
from pipeline.analysis.sandbox import connect
from pipeline.rollout_log.schema import TABLES

QUERY = "collapse_watch"
WATCHED = (
    "em",
    "em_sampled",
    "answered_share",
    "malformed_share",
    "turns_mean",
    "tokens_sampled",
    "rollouts_sampled",
    "entropy",
    "kl",
    "logp_gap_mean",
    "collapse_share",
    "collapse_share_or_faint",
    "duplicate_share",
)
"""Metrics of an iteration that the query reads."""
FELL = "fell"
"""The sign that is the collapse itself."""
NOT_SIGNS = ("none", "too short")
"""What the query's `sign` says of a run that shows none, and of one of too few iterations."""
MEMORY_GIB = 0.25


@dataclass(frozen=True, slots=True)
class Sign:
    """A sign that appeared at one iteration."""

    iteration: int
    name: str
    text: str
    """Its name and numbers, and what usually helps."""


class CollapseWatch:
    """Takes one iteration after the other, and returns the signs that appear.

    Args:
        history: iteration and metrics (`result["igpo"]`) of what the run trained before.
    """

    def __init__(self, history: Iterable[tuple[int, Mapping[str, float]]] = ()):
        self._connection = _database()
        for iteration, metrics in history:
            self._insert(iteration, metrics)

    def add(self, iteration: int, metrics: Mapping[str, float]) -> list[Sign]:
        """Returns the signs that appear at `iteration`; those that held before are not repeated."""
        self._insert(iteration, metrics)
        rows = self._connection.execute(named_query(QUERY).sql).fetchall()
        return [
            Sign(at, name, text)
            for _, at, name, *_, text in rows
            if at == iteration and name not in NOT_SIGNS
        ]

    def _insert(self, iteration: int, metrics: Mapping[str, float]) -> None:
        watched = {name: float(metrics[name]) for name in WATCHED if metrics.get(name) is not None}
        self._connection.execute(
            "INSERT INTO iterations VALUES ('', ?, 'train', map(?, ?))",
            [iteration, list(watched), list(watched.values())],
        )


def logged_metrics(run: Run, last: int | None = None) -> list[tuple[int, dict[str, float]]]:
    """Returns iteration and metrics of what a run has trained so far, or up to iteration `last`: the history
    of its watch.
    """
    rows = run.sql("SELECT iteration, metrics FROM iterations WHERE split = 'train' ORDER BY iteration")
    return [
        (iteration, metrics)
        for iteration, metrics in rows.fetchall()
        if metrics and (last is None or iteration <= last)
    ]


def signs_of(iterations: pa.Table) -> list[tuple[str, int, str]]:
    """(run id, iteration, sign) of many runs, from the rows of `iteration_table`, in this order."""
    connection = _database()
    connection.register("given", iterations)
    connection.execute("INSERT INTO iterations SELECT run_id, iteration, split, metrics FROM given")
    return [row[:3] for row in connection.execute(named_query(QUERY).sql).fetchall()]


def _database() -> duckdb.DuckDBPyConnection:
    """An empty database with the columns of the log that the query reads."""
    connection = connect(MEMORY_GIB)
    connection.execute(
        "CREATE TABLE iterations (run_id TEXT, iteration INT, split TEXT, metrics MAP(TEXT, DOUBLE))"
    )
    # It stays empty: metrics hold the share that older logs have to count from the decisions.
    columns = "run_id TEXT, iteration INT, split TEXT, group_id TEXT, episode_id TEXT, turn_index INT"
    connection.execute(f"CREATE TABLE turns ({columns}, decision_text TEXT)")
    return connection


def iteration_table(run_id: str, rows: Iterable[Mapping[str, float]]) -> pa.Table:
    """Makes the columns of `iterations` that the query reads, from the metrics of iterations 1, 2, ..."""
    names = ["run_id", "iteration", "split", "metrics"]
    schema = pa.schema([TABLES["iterations"].field(name) for name in names])
    return pa.Table.from_pylist(
        [
            {"run_id": run_id, "iteration": number, "split": "train", "metrics": list(metrics.items())}
            for number, metrics in enumerate(rows, start=1)
        ],
        schema=schema,
    )
