"""Whether two logs hold the same values, to the last bit, of what does not depend on time.

Left out are seconds, memory, rates per second, and which run and attempt wrote a row. Rows are matched by
their keys, because rollouts may be logged in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.analysis.run import COLUMNS, Run

KEYS = {
    "turns": ("episode_id", "turn_index"),
    "tokens": ("episode_id", "agent", "position"),
    "tool_calls": ("episode_id", "turn_index", "call_index"),
    "episodes": ("episode_id",),
    "groups": ("group_id",),
    "metrics": ("metric",),
}
"""The tables that are compared, in the order in which a difference spreads, and what names a row of one
iteration and split."""
METRICS = """(SELECT iteration, split, unnest(map_keys(metrics)) AS metric,
    unnest(map_values(metrics)) AS value FROM iterations)"""
WHO_AND_WHEN = ("run_id", "attempt", "schema_version", "iteration", "split", "config_hash", "retriever")
TIMED = ("seconds", "peak_gib", "tokens_per_second")
"""How the names of columns and metrics begin that differ in every run."""


@dataclass(frozen=True)
class Difference:
    """One value that differs."""

    iteration: int
    split: str
    table: str
    row: tuple[Any, ...]
    """Values of the row's keys (`KEYS`)."""
    column: str
    """The column; empty where the logs have the row not equally often, as `before` and `now` say."""
    before: Any
    now: Any

    def __str__(self) -> str:
        named = ", ".join(f"{key} {value}" for key, value in zip(KEYS[self.table], self.row, strict=True))
        where = f"iteration {self.iteration} ({self.split}), {self.table}, {named}"
        if not self.column:
            if self.before and self.now:
                return f"{where}: the row is there {self.before} times, now {self.now}"
            return f"{where}: only the {'first' if self.before else 'second'} log has the row"
        return f"{where}, {self.column}: {_short(self.before)}, now {_short(self.now)}"


@dataclass
class Sameness:
    """What a comparison found."""

    values: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    """Number of values that both logs have, by table."""
    differ: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    """Number of those that differ, and of rows that one log lacks or has more often."""
    first: Difference | None = None

    @property
    def is_equal(self) -> bool:
        return not any(self.differ.values())


def compare(before: Run, now: Run, parts: Iterable[tuple[int, str]]) -> Sameness:
    """Compares the visible rows of two logs.

    Args:
        before: a log.
        now: the log that should be equal to it.
        parts: the (iteration, split) that are compared.
    """
    found = Sameness()
    for iteration, split in sorted(parts, key=lambda part: (part[0], part[1] != "train")):
        for table in KEYS:
            rows = [_rows(run, table, iteration, split) for run in (before, now)]
            _compare_table(found, table, rows[0], rows[1], iteration, split)
    return found


def _rows(run: Run, table: str, iteration: int, split: str) -> pa.Table:
    columns = ["metric", "value"] if table == "metrics" else [c for c in COLUMNS[table] if not _leaves_out(c)]
    names = ", ".join(f'"{column}"' for column in columns)
    rows = run.sql(
        f"SELECT {names} FROM {METRICS if table == 'metrics' else table} "
        f"WHERE iteration = {iteration} AND split = '{split}' ORDER BY {', '.join(KEYS[table])}"
    ).to_arrow_table()
    if table == "metrics":
        timed = [name.startswith(TIMED) for name in rows["metric"].to_pylist()]
        rows = rows.filter(pa.array([not is_timed for is_timed in timed], pa.bool_()))
    return rows


def _leaves_out(column: str) -> bool:
    return column in WHO_AND_WHEN or column.startswith(TIMED)


def _compare_table(
    found: Sameness, table: str, before: pa.Table, now: pa.Table, iteration: int, split: str
) -> None:
    keys = KEYS[table]
    names_before, names_now = (
        list(zip(*(rows[key].to_pylist() for key in keys), strict=True)) for rows in (before, now)
    )
    different: list[tuple[tuple, int, Difference]] = []

    def note(row: tuple, column: str, old: Any, new: Any) -> None:
        at = before.column_names.index(column) if column else -1
        different.append((row, at, Difference(iteration, split, table, row, column, old, new)))

    if names_before != names_now:
        counts = Counter(names_before), Counter(names_now)
        for row in counts[0].keys() | counts[1].keys():
            if counts[0][row] != counts[1][row]:
                note(row, "", counts[0][row], counts[1][row])
        before, now = (
            rows.take([at for row, at in _first_places(names).items() if counts[0][row] and counts[1][row]])
            for rows, names in ((before, names_before), (now, names_now))
        )
    kept = list(zip(*(before[key].to_pylist() for key in keys), strict=True))
    for column in before.column_names:
        found.values[table] += before.num_rows
        old_N, new_N = before[column], now[column]
        if old_N.equals(new_N):  # unequal too where a value is NaN
            continue
        for row, old, new in zip(kept, old_N.to_pylist(), new_N.to_pylist(), strict=True):
            if repr(old) != repr(new):
                note(row, column, old, new)
    found.differ[table] += len(different)
    if different and found.first is None:
        found.first = min(different, key=lambda item: item[:2])[2]


def _first_places(names: list[tuple]) -> dict[tuple, int]:
    """Each name with the place where it stands first, in the order of the places."""
    places: dict[tuple, int] = {}
    for at, row in enumerate(names):
        places.setdefault(row, at)
    return places


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
