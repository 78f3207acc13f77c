"""Measures the cost of the rollout log in a training run.

    python -m benchmarks.rollout_log.overhead [--config conf/igpo.yaml] [--iterations 8] [--tokens]

A real run starts as `rllib train` starts it, with clocks around the log. `waited` is the time of the training
loop in the log's calls, with its wait for the disk before each checkpoint. `worked` is the processor time of
the log's own thread, as a share of one core. Both are shares of the run's iterations. The target is 1% each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from pipeline.analysis import open_run
from pipeline.experiment.experiment import load_experiments
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.terminal import Console
from pipeline.training.launch import LaunchOptions, launch


def timed(function: Callable, clock: Callable[[], float], seconds: list[float]) -> Callable:
    """`function`, which leaves the seconds of each call in `seconds`."""

    def call(*args, **kwargs):
        start = clock()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(clock() - start)

    return call


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="conf/igpo.yaml")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--tokens", action="store_true", help="also write the table `tokens`")
    args = parser.parse_args()

    seconds: dict[str, list[float]] = defaultdict(list)
    for name, clock in (
        ("write", time.perf_counter),
        ("flush", time.perf_counter),
        ("_write", time.thread_time),
    ):
        setattr(RolloutLogWriter, name, timed(getattr(RolloutLogWriter, name), clock, seconds[name]))
    with tempfile.TemporaryDirectory(prefix="rollout-log-") as folder:
        changes = [
            f"storage_path={folder}",
            "evaluation_interval=null",
            f"log_tokens={str(args.tokens).lower()}",
        ]
        experiments = load_experiments(args.config, changes, {"training_iteration": args.iterations})
        if code := launch(experiments, LaunchOptions(command=("rollout_log_overhead",)), Console()):
            raise SystemExit(code)
        with open_run("last", runs_dir=folder) as run:
            total, turns = run.sql(
                "SELECT sum(seconds['total']), (SELECT count(*) FROM turns) FROM iterations"
            ).fetchall()[0]
        size = sum(path.stat().st_size for path in Path(folder).glob("*/*/rollouts/*/*.parquet"))
    waited, worked = sum(seconds["write"]) + sum(seconds["flush"]), sum(seconds["_write"])
    print(
        f"{args.iterations} iterations of {args.config}: {total:.1f} s, {turns} turns, {size / turns:.0f} "
        "bytes a turn"
    )
    print(f"waited  {1000 * waited / args.iterations:7.1f} ms an iteration  {waited / total:.2%}")
    print(f"worked  {1000 * worked / args.iterations:7.1f} ms an iteration  {worked / total:.2%} of one core")


if __name__ == "__main__":
    main()
