"""Draws the study's plots: curves of each method with its band over seeds, per difficulty and question."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import altair as alt
import numpy as np

from pipeline.analysis.report.charts import Row, chart, run_colour, spec
from pipeline.analysis.report.figure import Figure, Section
from pipeline.study.store import FinishedCell
from pipeline.study.tables import estimate, heldout, training

POINTS = 12
"""Points of the axis at which the seeds' curves are averaged."""
VEGA_COLOURS = 10
"""Colours in the palette of a drawing outside the page."""
FIGURES = (
    ("Held-out exact match by tokens sampled", "tokens", "em", "exact match"),
    ("The same by seconds of training", "seconds", "em", "exact match"),
    ("Groups without signal, as trained", "tokens", "collapsed", "share of groups"),
    ("Turns per rollout", "tokens", "turns", "turns"),
    ("Does gain find the evidence?", "tokens", "gain_auroc", "AUROC of gain"),
    ("Does the advantage?", "tokens", "advantage_auroc", "AUROC of advantage"),
)
"""Title, columns of x and y, and title of the y axis."""
X_TITLES = {"tokens": "tokens sampled", "seconds": "seconds"}
BAND = "Line: mean over seeds; band: 95% bootstrap interval over seeds."


def sections(cells: list[FinishedCell], methods: list[str], difficulties: list[str]) -> list[Section]:
    """Draws a section per difficulty. `methods` fixes the order, and so each method's colour."""
    found = []
    for difficulty in difficulties:
        own = [cell for cell in cells if cell.cell.difficulty == difficulty]
        figures = [
            _figure(title, own, methods, x, y, X_TITLES[x], y_title) for title, x, y, y_title in FIGURES
        ]
        found.append(Section(difficulty, [figure for figure in figures if figure]))
    return [section for section in found if section.figures]


def overview(cells: list[FinishedCell], methods: list[str], difficulties: list[str]) -> alt.FacetChart:
    """Draws the main figure: held-out exact match by tokens sampled, a panel per difficulty."""
    rows = []
    for difficulty in difficulties:
        own = [found for found in cells if found.cell.difficulty == difficulty]
        curves = _curves(own, "tokens", "em")
        rows += [
            row | {"difficulty": difficulty}
            for name in methods
            if name in curves
            for row in _band(name, curves[name])
        ]
    shown = [method for method in methods if any(row["run"] == method for row in rows)]
    colour = run_colour(shown, alt.Legend(orient="top", symbolOpacity=1), colours=VEGA_COLOURS)
    base: Any = alt.Chart(width=230, height=190).encode(
        x=alt.X("x:Q", title=X_TITLES["tokens"], axis=alt.Axis(format="~s", tickCount=5))
    )
    band = base.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q", color=colour)
    line = base.mark_line().encode(y=alt.Y("mean:Q", title="held-out exact match"), color=colour)
    return alt.layer(band, line, data=alt.Data(values=rows)).facet(
        column=alt.Column("difficulty:N", title=None, sort=difficulties)
    )


def _curves(cells: list[FinishedCell], x: str, y: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Returns (x, y) of each seed by method, without rows where y is not known."""
    columns = heldout if y == "em" else training
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for found in cells:
        values = columns(found)
        known = np.isfinite(values[y])
        if known.any():
            curves[found.cell.method].append((values[x][known], values[y][known]))
    return curves


def _figure(
    title: str, cells: list[FinishedCell], methods: list[str], x: str, y: str, x_title: str, y_title: str
) -> Figure | None:
    curves = _curves(cells, x, y)
    rows: list[Row] = [row for method in methods if method in curves for row in _band(method, curves[method])]
    if not rows:
        return None
    drawn = {row["run"] for row in rows}
    shown = [method for method in methods if method in drawn]
    left_out = [method for method in methods if method in curves and method not in drawn]
    note = f" Not shown, since no x value is common to all seeds: {', '.join(left_out)}." if left_out else ""
    picked = alt.selection_point(fields=["run"], bind="legend")
    colour = run_colour(methods, alt.Legend(symbolOpacity=1, values=shown))
    base: Any = chart(rows).encode(x=alt.X("x:Q", title=x_title, axis=alt.Axis(format="~s")), color=colour)
    band = base.mark_area().encode(
        y="low:Q", y2="high:Q", opacity=alt.when(picked).then(alt.value(0.15)).otherwise(alt.value(0.02))
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("mean:Q", title=y_title),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.1)),
        tooltip=["run:N", alt.Tooltip("x:Q", title=x_title, format=",.0f"), "seeds:Q"]
        + [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("mean", "low", "high")],
    )
    return Figure(title, BAND + note, spec((band + line).add_params(picked)))


def _band(method: str, curves: list[tuple[np.ndarray, np.ndarray]]) -> list[Row]:
    """Averages the seeds' curves, linear between points, at `POINTS` x values that all of them cover.

    Curves that have no x value in common give no row.
    """
    begin, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if begin > end:
        return []
    places = np.linspace(begin, end, POINTS)
    rows = []
    for place in places:
        at = estimate([float(np.interp(place, x, y)) for x, y in curves])
        rows.append(
            {
                "run": method,
                "x": float(place),
                "mean": at.mean,
                "low": at.low,
                "high": at.high,
                "seeds": at.count,
            }
        )
    return rows
