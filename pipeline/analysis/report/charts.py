"""The three ways in which the report draws: lines over iterations, boxes over categories, and what they
share.

Specifications carry no fonts, and no colours but where there are more runs than the page's palette has: the
page sets them by its theme (`page.js`).
"""

from __future__ import annotations

from typing import Any

import altair as alt

Row = dict[str, Any]
Chart = alt.Chart | alt.LayerChart

HEIGHT = 240
COLOURS = 7
"""Colours in the page's palette (`--series` in style.css)."""
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
WHOLE = "datum.value % 1 == 0 ? datum.label : ''"
"""Labels of an axis of whole numbers: a short run has ticks between them, which would repeat a label."""
PLAIN = (
    "datum.value != 0 && abs(datum.value) < 0.001 ? format(datum.value, '.1~e') : format(datum.value, '~g')"
)
"""Labels of an axis of numbers of any size. Vega's own rounding repeats labels: 0.1, 0.1, 0.08."""
ITERATION = alt.X(
    "iteration:Q",
    title="iteration",
    axis=alt.Axis(tickMinStep=1, tickCount=8, format="d", labelExpr=WHOLE),
)


def chart(rows: list[Row], height: int = HEIGHT) -> alt.Chart:
    """Makes a chart as wide as its place in the page."""
    return alt.Chart(alt.Data(values=rows), width="container", height=height)


def spec(drawn: Chart) -> dict[str, Any]:
    """Returns the Vega-Lite specification without Altair's own theme."""
    specification = drawn.to_dict()
    specification.pop("config", None)
    return specification


def run_colour(labels: list[str], legend: alt.Legend | None = None, colours: int = COLOURS) -> alt.Color:
    """Returns a colour per run, the same in every plot.

    Args:
        labels: the runs.
        legend: the legend; None: the usual one, where there are several runs.
        colours: how many the palette has; more runs than that get Vega's palette of twenty, so that no two
            look the same.
    """
    if legend is None and len(labels) > 1:
        legend = alt.Legend(symbolOpacity=1)
    scale = alt.Scale(domain=labels, scheme="tableau20" if len(labels) > colours else alt.Undefined)
    return alt.Color("run:N", title=None, scale=scale, legend=legend)


def learning_curve(rows: list[Row], labels: list[str]) -> dict[str, Any]:
    """Draws columns of the named query `learning_curve`, one split: exact match per run as a line in its
    95% band.
    """
    for row in rows:
        half = row["em_ci95"] or 0.0
        row |= {"low": max(row["em_squad"] - half, 0.0), "high": min(row["em_squad"] + half, 1.0)}
    picked = _legend_pick("run")
    base = chart(rows).encode(x=ITERATION, color=run_colour(labels))
    band = base.mark_area().encode(
        y="low:Q", y2="high:Q", opacity=alt.when(picked).then(alt.value(0.18)).otherwise(alt.value(0.03))
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("em_squad:Q", title="exact match (SQuAD)", scale=alt.Scale(domainMin=0)),
        opacity=_faint_unless(picked),
        tooltip=[
            "run:N",
            "iteration:Q",
            alt.Tooltip("em_squad:Q", title="exact match", format=".3f"),
            alt.Tooltip("em_ci95:Q", title="± 95%", format=".3f"),
            alt.Tooltip("f1_squad:Q", title="F1", format=".3f"),
            alt.Tooltip("outcome:Q", title="reward", format=".3f"),
            "questions:Q",
            "rollouts:Q",
        ],
    )
    return spec((band + line).add_params(picked))


def lines(rows: list[Row], order: list[str], title: str, is_share: bool) -> dict[str, Any]:
    """`series`, `iteration`, `value`: one line per series, each with its own colour and dashes."""
    picked = _legend_pick("series")
    scale = alt.Scale(domain=order)
    value = alt.Y(
        "value:Q",
        title=title,
        axis=alt.Axis(format="%") if is_share else alt.Axis(labelExpr=PLAIN),
        scale=alt.Scale(domain=[0, 1]) if is_share else alt.Scale(zero=True),
    )
    drawn = chart(rows).encode(
        x=ITERATION,
        y=value,
        color=alt.Color(
            "series:N", title=None, scale=scale, legend=alt.Legend(symbolType="stroke", symbolSize=300)
        ),
        opacity=_faint_unless(picked),
        tooltip=["series:N", "iteration:Q", alt.Tooltip("value:Q", format=".3f")],
    )
    line = drawn.mark_line().encode(strokeDash=alt.StrokeDash("series:N", title=None, scale=scale))
    return spec((line + drawn.mark_point(filled=True, size=28)).add_params(picked))


def boxes(rows: list[Row], labels: list[str], category: str, value: str) -> dict[str, Any]:
    """`category`, `mean`, `QUANTILES` per run: box from q25 to q75 with the median, line from q05 to q95, dot
    at the mean.
    """
    data = chart(rows)
    drawn = [label for label in labels if any(row["run"] == label for row in rows)]
    legend = alt.Legend(symbolOpacity=1, values=drawn) if len(labels) > 1 else None
    base = data.encode(
        x=alt.X("category:O", title=category, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("run:N", scale=alt.Scale(domain=drawn)),
        color=run_colour(labels, legend),
        tooltip=["run:N", alt.Tooltip("category:O", title=category), "turns:Q"]
        + [alt.Tooltip(f"{name}:Q", format="+.3f") for name in ("mean", *QUANTILES)],
    )
    width = min(40, max(5, 140 // len(rows)))
    zero = data.mark_rule().encode(y=alt.datum(0))
    return spec(
        zero
        + base.mark_rule().encode(y=alt.Y("q05:Q", title=value), y2="q95:Q")
        + base.mark_bar(size=width, fillOpacity=0.35).encode(y="q25:Q", y2="q75:Q")
        + base.mark_tick(size=width, thickness=2).encode(y="q50:Q")
        + base.mark_point(filled=True, size=50, opacity=1).encode(y="mean:Q")
    )


def _legend_pick(field: str) -> alt.Parameter:
    """Selects the series of the legend's entry that is clicked."""
    return alt.selection_point(fields=[field], bind="legend")


def _faint_unless(picked: alt.Parameter) -> Any:
    return alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.12))
