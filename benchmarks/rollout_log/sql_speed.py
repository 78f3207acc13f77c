"""Measures the named queries on a log of 10 million turns, with 2 cores and 4 GiB.

    python -m benchmarks.rollout_log.sql_speed [--turns 10000000] [--runs 3] [--only NAME ...]

The log is generated (`benchmarks.rollout_log.generated_log`), about 3.4 GB in a temporary folder, and is in
the page cache when the queries run. Each query runs in a process of its own, which opens the log as `igpo
sql` does, but gives DuckDB 2 threads and 3 GB. The table shows the shortest of `--runs` runs, its processor
seconds (of 2 cores) and the process's peak memory. A query takes processor seconds / 2 on two cores that
nothing else uses.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import duckdb
from rich.table import Table

from benchmarks.rollout_log.generated_log import write_generated_log
from pipeline.analysis import named_queries, open_run
from pipeline.analysis import run as run_module
from pipeline.terminal import Console

TARGETS = {"numbers": 1.0, "ranking": 5.0, "text": 15.0}
"""Seconds for each kind of query."""
KINDS = {
    "credit_auroc": "ranking",
    "credit_auroc_by_hop": "ranking",
    "answer_flips": "text",
    "endings": "text",
    "format_failures": "text",
    "gain_breakdown": "text",
    "queries_by_gain": "text",
    "question_curves": "text",
    "repeated_queries": "text",
    "tool_errors": "text",
    "unsolved_questions": "text",
}
"""Kind of each named query; one that is not here aggregates numbers."""


MEMORY_GIB = 3e9 / 2**30


def two_threads(connect):
    """`connect` with the benchmark's threads."""

    def call(memory_gib: float | None = None) -> duckdb.DuckDBPyConnection:
        connection = connect(memory_gib)
        connection.execute("SET threads = 2")
        return connection

    return call


def measure(folder: str, name: str, runs: int) -> tuple[float, float, float, int]:
    """Returns (wall seconds, processor seconds, peak GiB of this process, rows), for a process of its own."""
    run_module.connect = two_threads(run_module.connect)
    times, rows = [], 0
    with open_run(folder, memory_gib=MEMORY_GIB) as run:
        for _ in range(runs):
            start, cpu = time.perf_counter(), time.process_time()
            rows = run.named(name).to_arrow_table().num_rows
            times.append((time.perf_counter() - start, time.process_time() - cpu))
    return *min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=sorted(named_queries()), help="names of queries")
    parser.add_argument("--log", type=Path, help="use, or first make, the log in this folder, and keep it")
    args = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory(prefix="sql-speed-") as temporary:
        folder = args.log or Path(temporary)
        if not (folder / "rollouts" / "manifest.json").exists():
            start = time.perf_counter()
            write_generated_log(folder / "rollouts", args.turns, iterations=max(1, args.turns // 10_000))
            print(f"log made in {time.perf_counter() - start:.0f} s")
        with open_run(folder) as run:
            counts = {
                name: run.table(name).count("*").fetchall()[0][0]
                for name in ("turns", "episodes", "tool_calls")
            }
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        print(", ".join(f"{count:,} {name}" for name, count in counts.items()), f"in {size / 1e9:.2f} GB")

        table = Table("query", "kind", "seconds", "processor s / 2", "target", "peak GiB", "rows")
        context = multiprocessing.get_context("spawn")
        for name in args.only:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                wall, cpu, peak, rows = pool.submit(measure, str(folder), name, args.runs).result()
            kind = KINDS.get(name, "numbers")
            table.add_row(
                name, kind, f"{wall:.2f}", f"{cpu / 2:.2f}", f"{TARGETS[kind]:g}", f"{peak:.2f}", f"{rows:,}",
                style="red" if cpu / 2 > TARGETS[kind] else "",
            )  # fmt: skip
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
