"""What a soak saw: how each process grew, and a drawing over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import duckdb
from rich.table import Table

from benchmarks.kill_matrix.run import run_folder
from benchmarks.soak.watch import SAMPLES
from pipeline.analysis import open_run
from pipeline.analysis.locate import AnalysisError
from pipeline.terminal import Console

GROWTH = """
SELECT
    if(parts > 1, process || ', part ' || part, process) AS name,
    count(*) AS looks,
    first(mib ORDER BY minutes) FILTER (minutes >= warm) AS at_first,
    last(mib ORDER BY minutes) AS at_last,
    60 * regr_slope(mib, minutes) FILTER (minutes >= (warm + latest) / 2) AS slope,
    min(descriptors) FILTER (minutes >= warm) AS fewest,
    max(descriptors) FILTER (minutes >= warm) AS most
FROM samples JOIN (
    SELECT part, min(minutes) + (max(minutes) - min(minutes)) / 5 AS warm, max(minutes) AS latest
    FROM samples GROUP BY part
) USING (part), (SELECT max(part) AS parts FROM samples)
GROUP BY process, part, parts HAVING slope IS NOT NULL ORDER BY process, part
"""
"""The first fifth of a part is left out: processes start and caches fill. The slope is of its second half; a
process that was not looked at twice there is left out."""
STEPS = """
SELECT iteration, seconds['total'] + coalesce(seconds['log'], 0) AS seconds, tool_calls, failed FROM (
    SELECT iteration, seconds FROM iterations WHERE split = 'train' AND seconds['total'] IS NOT NULL
) LEFT JOIN (
    SELECT iteration, count(*) AS tool_calls, count(*) FILTER (failed) AS failed
    FROM tool_calls WHERE split = 'train' GROUP BY iteration
) USING (iteration) ORDER BY iteration
"""
"""Seconds by the clock, as in `igpo profile`: `total` sums the phases up, and the log was kept after it."""


def growth(samples: duckdb.DuckDBPyRelation) -> list[tuple]:
    """(process, looks, first MiB, last MiB, MiB an hour, fewest and most descriptors) of each process."""
    return samples.query("samples", GROWTH).fetchall()


def report(folder: Path, svg: Path | None) -> None:
    """Prints how each process grew, and the steps by tenth of the run; draws both to `svg`."""
    samples = duckdb.read_json(str(folder / SAMPLES))
    grown = Table(title="memory in MiB, after the first fifth; slope of the second half")
    for heading in ("process", "looks", "first", "last", "MiB an hour", "descriptors"):
        grown.add_column(heading, justify="left" if heading == "process" else "right")
    for process, looks, first, last, slope, fewest, most in growth(samples):
        between = "" if fewest is None else f"{fewest} to {most}"
        grown.add_row(process, str(looks), f"{first:,.0f}", f"{last:,.0f}", f"{slope:+,.1f}", between)
    run = run_folder(folder)
    if run is None:
        raise SystemExit(f"{folder} holds no run: {folder / 'said.txt'} says why")
    try:
        with open_run(run) as log:
            steps = log.sql(STEPS).to_arrow_table()
    except AnalysisError as error:
        raise SystemExit(f"{error}") from error
    console = Console()
    console.print(grown, _by_tenth(steps.to_pylist()))
    if svg is not None:
        draw(samples.to_arrow_table().to_pylist(), steps.to_pylist()).save(str(svg))


def _by_tenth(steps: list[dict]) -> Table:
    """Median seconds of a step and failed calls, by tenth of the iterations."""
    table = Table(title=f"{len(steps):,} iterations")
    for heading in ("to iteration", "median seconds", "slowest", "tool calls", "failed"):
        table.add_column(heading, justify="right")
    size = max(1, len(steps) // 10)
    for start in range(0, len(steps) - size + 1, size):
        part = steps[start : start + size]
        seconds = sorted(step["seconds"] for step in part)
        calls = sum(step["tool_calls"] or 0 for step in part)
        failed = sum(step["failed"] or 0 for step in part)
        cells = (
            part[-1]["iteration"],
            f"{seconds[len(seconds) // 2]:.2f}",
            f"{seconds[-1]:.1f}",
            f"{calls:,}",
            failed,
        )
        table.add_row(*map(str, cells))
    return table


def draw(samples: list[dict], steps: list[dict]) -> alt.VConcatChart:
    """Memory and descriptors by process, size of the folder, seconds of a step."""
    processes = [row for row in samples if row["process"] != "folder"]
    folder = [row for row in samples if row["process"] == "folder"]
    line: Any = alt.Chart(width=520, height=130).mark_line(strokeWidth=1.2)
    minutes = alt.X("minutes:Q", title="minutes")

    def panel(values: list[dict], x: alt.X, field: str, title: str, *, by_process: bool) -> alt.Chart:
        y, detail = alt.Y(f"{field}:Q", title=title), ["part:N"] if "part" in values[0] else []
        chart = line.encode(x=x, y=y, detail=detail).properties(data=alt.Data(values=values))
        return chart.encode(color=alt.Color("process:N", title=None)) if by_process else chart

    return alt.vconcat(
        panel(processes, minutes, "mib", "resident MiB", by_process=True),
        panel(processes, minutes, "descriptors", "open descriptors", by_process=True),
        panel(folder, minutes, "mib", "run folder, MiB", by_process=False),
        panel(
            steps, alt.X("iteration:Q", title="iteration"), "seconds", "seconds of a step", by_process=False
        ),
    )
