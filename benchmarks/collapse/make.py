"""Trains the runs of `recipes` one after another on the same Ray and engine, and keeps their metrics.

A run's file holds what `iterations` of its rollout log would hold, which is all that the watch reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.collapse.recipes import ITERATIONS, Recipe
from envs.durable import write_file
from pipeline.analysis.collapse_watch import WATCHED, iteration_table


def make(recipes: list[Recipe], seeds: list[int], folder: Path) -> None:
    """Trains every run that has no file in `folder` yet.

    A run whose loss or gradient is not finite keeps the iterations before it. Any other error ends the
    whole; the next call trains what is missing.
    """
    algorithm: Any = None
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for recipe in recipes:
            path = folder / f"{recipe.name}-{seed}.parquet"
            if path.exists():
                continue
            print(f"{path.stem} ...", flush=True)
            algorithm, rows = _train(algorithm, recipe, seed)
            table = iteration_table(path.stem, rows)
            write_file(path, lambda file, table=table: pq.write_table(table, file, compression="zstd"))
            print(f"{path.stem}: EM {[round(metrics['em'], 2) for metrics in rows[::3]]}", flush=True)
    if algorithm is not None:
        algorithm.stop()


def _train(algorithm: Any, recipe: Recipe, seed: int) -> tuple[Any, list[dict[str, float]]]:
    """Trains one run. Returns the algorithm for the next one, None if it is spent, and the metrics."""
    config = recipe.experiment(seed).algorithm_config()
    if algorithm is None or not algorithm.reset(config):
        if algorithm is not None:
            algorithm.stop()
        algorithm = config.build_algo()
    rows: list[dict[str, float]] = []
    for _ in range(ITERATIONS):
        try:
            metrics = algorithm.train()["igpo"]
        except FloatingPointError as error:  # the run fails in the very way that is to be foreseen
            print(f"ended after {len(rows)} iterations: {error}", flush=True)
            algorithm.stop()
            return None, rows
        rows.append({name: metrics[name] for name in WATCHED if name in metrics})
    return algorithm, rows
