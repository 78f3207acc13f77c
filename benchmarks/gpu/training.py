"""Phases that train: a run by the real command, and what its log says afterwards.

python -m benchmarks.gpu.training conf/igpo_gpu.yaml --iterations 10 --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import add_result, write_result

COLUMNS = ("em", "f1", "logp_gap_mean", "logp_gap_max", "tokens_sampled", "peak_gib_sample", "peak_gib_learn")
"""Metrics of each iteration that are kept, where the run has them."""


def train(config: str, iterations: int, out: Path, changes: list[str]) -> float:
    """Runs `rllib train file`; returns its seconds. Ends this process with its exit code if it fails."""
    stop = json.dumps({"training_iteration": iterations})
    command = [sys.executable, "-m", "pipeline.cli.rllib", "train", "file", config, "--stop", stop]
    for change in (*changes, f"storage_path={out}"):
        command += ["--set", change]
    started = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)
    return time.perf_counter() - started


def read_log(out: Path) -> dict[str, Any]:
    """Every iteration of the newest run in `out`: metrics, seconds by phase, and the held-out scores."""
    from pipeline.analysis import open_run

    with open_run("last", runs_dir=out) as run:
        rows = run.sql(
            "SELECT iteration, split, metrics, seconds FROM iterations ORDER BY iteration, split"
        ).fetchall()
        heldout = run.sql(
            """SELECT iteration, avg(em_squad), avg(f1_squad), count(*) FROM episodes
            WHERE split = 'heldout' GROUP BY iteration ORDER BY iteration"""
        ).fetchall()
    train_rows = [
        (k, dict(metrics), dict(seconds)) for k, split, metrics, seconds in rows if split == "train"
    ]
    return {
        "iterations": [
            {
                "iteration": k,
                **{name: metrics[name] for name in COLUMNS if name in metrics},
                "seconds": seconds,
            }
            for k, metrics, seconds in train_rows
        ],
        "heldout": [{"iteration": k, "em": em, "f1": f1, "rollouts": n} for k, em, f1, n in heldout],
        "swap_share": _share(train_rows, "swap"),
        "push_share": _share(train_rows, "push"),
        "score_share": _share(train_rows, "score"),
    }


def _share(rows: list[tuple[int, dict, dict]], phase: str) -> float | None:
    """Seconds of a phase over those of the iterations, the first left out where there are more."""
    kept = rows[1:] or rows
    total = sum(seconds.get("total") or 0.0 for _, _, seconds in kept)
    return sum(seconds.get(phase) or 0.0 for _, _, seconds in kept) / total if total else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="experiment file")
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    add_result(parser)
    args = parser.parse_args()
    seconds = train(args.config, args.iterations, args.out, args.changes)
    write_result(args.result, {"seconds": seconds, **read_log(args.out)})


if __name__ == "__main__":
    main()
