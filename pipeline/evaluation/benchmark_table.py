"""Scores per data set and their average, in the layout of the paper's tables: one column a data set, the
average last.

The average gives every data set the same weight, as the paper does, whatever their sizes; its interval
resamples the questions of each data set by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from pipeline.evaluation.intervals import bootstrap_means, percentile_interval

AVERAGE = "Avg"
Values = Mapping[str, Sequence[float]]
"""Data set to one value per question, in the order of the columns."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean in [0, 1], the bounds of its 95% bootstrap interval, and over how many questions."""

    mean: float
    low: float
    high: float
    questions: int


def benchmark_row(values: Values) -> dict[str, Cell]:
    """Returns one cell per data set, and under `AVERAGE` the mean of their means."""
    resampled = {name: bootstrap_means(of_one, seed=k) for k, (name, of_one) in enumerate(values.items())}
    cells = {
        name: Cell(float(np.mean(of_one)), *percentile_interval(resampled[name]), len(of_one))
        for name, of_one in values.items()
    }
    mean = float(np.mean([cell.mean for cell in cells.values()]))
    average_X = np.mean(list(resampled.values()), axis=0)
    questions = sum(cell.questions for cell in cells.values())
    return cells | {AVERAGE: Cell(mean, *percentile_interval(average_X), questions)}


def benchmark_table(rows: Mapping[str, Values], title: str) -> Table:
    """`rows` is metric to values; scores are shown in percent, with the interval below."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    columns = [*next(iter(rows.values())), AVERAGE]
    for name in columns:
        table.add_column(name, justify="right")
    cells: dict[str, Cell] = {}
    for metric, values in rows.items():
        cells = benchmark_row(values)
        table.add_row(metric, *(f"{100 * cells[name].mean:.1f}" for name in columns), style="bold")
        table.add_row(
            "",
            *(f"{100 * cells[name].low:.1f}-{100 * cells[name].high:.1f}" for name in columns),
            style="dim",
        )
    table.add_row("questions", *(f"{cells[name].questions:,}" for name in columns))
    return table
