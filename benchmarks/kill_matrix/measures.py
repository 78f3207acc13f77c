"""What a run that was killed has lost or doubled, against the same run without a kill."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.kill_matrix.run import metadata
from pipeline.analysis import open_run
from pipeline.verification.same_rows import KEYS, METRICS, compare
from pipeline.verification.same_weights import compare_weights
from pipeline.verification.starting_points import TRAIN

PARTS = "SELECT iteration, split FROM iterations"
WEIGHTS = "checkpoints/last/hf"
METRIC = "train/em"


def measure(run: Path, uninterrupted: Path) -> dict[str, Any]:
    """Compares two finished runs.

    Returns:
        Counts, all of which are 0 where nothing was lost or doubled, except `iterations_repeated`: those
        that an attempt logged and a later one ran again.
    """
    with open_run(uninterrupted) as before, open_run(run) as now:
        parts = before.sql(PARTS).fetchall()
        prompts = [Counter(_prompts(log)) for log in (before, now)]
        found = compare(before, now, {*parts, *now.sql(PARTS).fetchall()})
        doubled = sum(_doubled(now, table) for table in KEYS)
        visible = sum(split == TRAIN for _, split in now.sql(PARTS).fetchall())
    steps = _steps(run)
    expected = {int(iteration) for iteration, split in parts if split == "train"}
    return {
        "iterations_repeated": _logged(run) - visible,
        "prompts_skipped": sum((prompts[0] - prompts[1]).values()),
        "prompts_repeated": sum((prompts[1] - prompts[0]).values()),
        "rows_doubled": doubled,
        "metrics_doubled": sum(count - 1 for count in Counter(steps).values()),
        "metrics_missing": len(expected - set(steps)),
        "values": sum(found.values.values()),
        "values_different": sum(found.differ.values()),
        "first_difference": str(found.first) if found.first else None,
        "tensors_different": compare_weights(uninterrupted / WEIGHTS, run / WEIGHTS)[1],
        "attempts": len(metadata(run)["attempts"]),
    }


def state_on_disk(run: Path | None) -> dict[str, Any]:
    """What a kill left: evidence of the phase that it met."""
    if run is None:
        return {"run": False}
    checkpoints = run / "checkpoints"
    return {
        "saved": sorted(int(path.name[-6:]) for path in checkpoints.glob("iteration_*")),
        "half_a_checkpoint": len([*checkpoints.glob(".iteration_*.tmp")]),
        "half_a_log_file": len([*run.glob("rollouts/*/*.tmp")]),
        "committed": metadata(run)["iteration"],
        "status": metadata(run)["status"],
    }


class Reader:
    """Reads the log of a run under way twice a second, as a person with `igpo sql` does."""

    def __init__(self, folder: Path):
        self.reads = self.failed = 0
        self.error: str | None = None
        self._folder, self._over = folder, threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(0.5):
            for run in self._folder.glob("runs/*/*/rollouts/manifest.json"):
                try:
                    files = json.loads(run.read_text())["files"]
                    if not any(file["table"] == "iterations" for file in files):
                        continue
                    with open_run(run.parents[1]) as log:
                        doubled = sum(_doubled(log, table) for table in ("episodes", "turns"))
                    self.reads += 1
                    if doubled:
                        self.failed, self.error = self.failed + 1, f"{doubled} rows were there twice"
                except Exception as error:  # whatever it is, a person would have met it
                    self.failed, self.error = self.failed + 1, f"{type(error).__name__}: {error}"


def _prompts(log: Any) -> list[tuple]:
    return log.sql(
        "SELECT DISTINCT iteration, question_id, group_id FROM episodes WHERE split = 'train'"
    ).fetchall()


def _doubled(log: Any, table: str) -> int:
    source, keys = METRICS if table == "metrics" else table, ", ".join(KEYS[table])
    ((count,),) = log.sql(
        f"SELECT count(*) - count(DISTINCT (iteration, split, {keys})) FROM {source}"
    ).fetchall()
    return int(count)


def _logged(run: Path) -> int:
    """Training iterations that were logged, counted once for each attempt that did."""
    manifest = json.loads((run / "rollouts/manifest.json").read_text())
    files = [file["path"] for file in manifest["files"] if file["table"] == "iterations"]
    splits = [
        pq.read_table(run / "rollouts" / path, columns=["split"])["split"].to_pylist() for path in files
    ]
    return sum(each.count(TRAIN) for each in splits)


def _steps(run: Path) -> list[int]:
    """Steps at which the run's MLflow run has the training metric."""
    which = (METRIC, metadata(run)["mlflow_run_id"])
    query = "SELECT step FROM metrics WHERE key = ? AND run_uuid = ?"
    with sqlite3.connect(f"file:{run.parents[1] / 'mlflow.db'}?mode=ro", uri=True) as store:
        return [step for (step,) in store.execute(query, which)]
