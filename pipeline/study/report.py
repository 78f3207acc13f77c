"""Writes the study as one HTML file: curves, rollouts needed, final scores, tests, learning rates tried."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from envs.durable import write_text
from envs.errors import InputError
from pipeline.analysis.report.page import assets, environment
from pipeline.study.figures import overview, sections
from pipeline.study.plan import Plan
from pipeline.study.rates import RateScore, best_rates, rate_in_words, rate_scores
from pipeline.study.store import FinishedCell
from pipeline.study.tables import (
    Comparison,
    Estimate,
    compare,
    estimate,
    final,
    greedy_final,
    heldout,
    training,
)


def write_study_report(plan: Plan, cells: list[FinishedCell], missing: int, path: Path) -> Path:
    """Writes the report of `cells` to `path`, and its main figure beside it as SVG; returns `path`.

    `missing`: how many cells have not been run yet.

    Raises:
        InputError: there is nothing to report.
    """
    reported = [found for found in cells if not found.cell.is_tuning]
    tuned = [found for found in cells if found.cell.is_tuning]
    if not reported:
        raise InputError(
            "the study has no finished cell to report: run it first (`igpo study`, without --report-only)."
        )
    order = [name for name in plan.methods if any(found.cell.method == name for found in reported)]
    html = (
        environment("pipeline.study")
        .get_template("study.html")
        .render(
            **assets(),
            plan=plan,
            sections=sections(reported, order, list(plan.difficulties)),
            finals=final_rows(plan, cells),
            comparisons=sorted(compare(reported, plan.baseline), key=_place(plan)),
            tuning=sorted(rate_scores(tuned), key=_place(plan)),
            rates=best_rates(tuned),
            facts=reported[-1].facts,
            commits=sorted({found.facts["git_commit"] or "unknown" for found in reported}),
            missing=missing,
            count=len(reported),
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    )
    write_text(path, html)
    figure = io.StringIO()
    overview(reported, order, list(plan.difficulties)).save(figure, format="svg")
    write_text(path.with_suffix(".svg"), figure.getvalue())
    return path


def final_rows(plan: Plan, cells: list[FinishedCell]) -> list[dict]:
    """Makes the table of final scores: a row per difficulty and method, in the plan's order."""
    reported = [found for found in cells if not found.cell.is_tuning]
    return [_final_row(seeds) for seeds in _by_method(reported, list(plan.methods), list(plan.difficulties))]


def _place(plan: Plan) -> Callable[[Comparison | RateScore], tuple[int, int]]:
    """Where a row stands in a table: by difficulty and method, each in the plan's order."""
    difficulties, methods = list(plan.difficulties), list(plan.methods)
    return lambda row: (difficulties.index(row.difficulty), methods.index(row.method))


def _by_method(
    cells: list[FinishedCell], order: list[str], difficulties: list[str]
) -> list[list[FinishedCell]]:
    """Collects the seeds of each method and difficulty."""
    groups = [
        [found for found in cells if (found.cell.difficulty, found.cell.method) == (difficulty, method)]
        for difficulty in difficulties
        for method in order
    ]
    return [group for group in groups if group]


def _final_row(seeds: list[FinishedCell]) -> dict:
    """Makes one row of the table of final scores."""
    return {
        "difficulty": seeds[0].cell.difficulty,
        "method": seeds[0].cell.method,
        "learning_rate": rate_in_words(seeds[0].facts["learning_rate"]),
        "seeds": len(seeds),
        "start": estimate([float(heldout(found)["em"][0]) for found in seeds]),
        "em": estimate([final(found) for found in seeds]),
        "f1": estimate([final(found, "f1") for found in seeds]),
        "greedy": estimate([greedy_final(found) for found in seeds]),
        "collapsed": _mean_of(seeds, "collapsed"),
        "turns": _mean_of(seeds, "turns"),
        "gain_auroc": _mean_of(seeds, "gain_auroc"),
        "advantage_auroc": _mean_of(seeds, "advantage_auroc"),
    }


def _mean_of(seeds: list[FinishedCell], column: str) -> Estimate | None:
    """Averages a training column over iterations, then over seeds."""
    values = [training(found)[column] for found in seeds]
    known = [
        float(column_X[column_X == column_X].mean()) for column_X in values if (column_X == column_X).any()
    ]
    return estimate(known) if known else None
