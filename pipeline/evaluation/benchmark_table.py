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
INTERVAL, BORDER = len("100.0-100.0"), 3
"""Cells of the terminal for the widest interval, and for a column's border."""
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


def benchmark_table(cells: Mapping[str, dict[str, Cell]], title: str, width: int) -> Table:
    """Shows scores in percent, with the interval below: a column per data set, where `width` has room for it.

    Args:
        cells: metric to what `benchmark_row` returned.
        title: a line above the table.
        width: cells of the terminal. In a narrower one, each data set is a row.
    """
    names = list(next(iter(cells.values())))
    wide = sum(max(len(name), INTERVAL) + BORDER for name in ["questions", *names]) < width
    return _by_column(cells, names, title) if wide else _by_row(cells, names, title)


def _by_column(cells: Mapping[str, dict[str, Cell]], names: list[str], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for metric, row in cells.items():
        table.add_row(metric, *(_mean(row[name]) for name in names), style="bold")
        table.add_row("", *(_interval(row[name]) for name in names), style="dim")
    last = list(cells.values())[-1]
    table.add_row("questions", *(f"{last[name].questions:,}" for name in names))
    return table


def _by_row(cells: Mapping[str, dict[str, Cell]], names: list[str], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), header_style="bold")
    table.add_column("", overflow="fold")
    for metric in [*cells, "questions"]:
        table.add_column(metric, justify="right", no_wrap=True)
    last = list(cells.values())[-1]
    for name in names:
        means = (_mean(row[name]) for row in cells.values())
        table.add_row(name, *means, f"{last[name].questions:,}", style="bold")
        table.add_row("", *(_interval(row[name], 0) for row in cells.values()), style="dim")
    return table


def _mean(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f}"


def _interval(cell: Cell, digits: int = 1) -> str:
    return f"{100 * cell.low:.{digits}f}-{100 * cell.high:.{digits}f}"
