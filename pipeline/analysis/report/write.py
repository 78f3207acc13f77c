"""From the runs' logs to one HTML file: numbers, plots, tables and rollouts into the template."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup, escape

from envs.durable import write_text
from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.report.case_study import case_study_figure
from pipeline.analysis.report.figure import Figure
from pipeline.analysis.report.figures import sections
from pipeline.analysis.report.overview import glance
from pipeline.analysis.report.page import assets, environment
from pipeline.analysis.report.reported_runs import ReportedRun, config_differences, reported_runs
from pipeline.analysis.report.tables import tables
from pipeline.analysis.run import Run, open_run
from pipeline.analysis.trajectories import CASE_STUDY, Instructive, gold_spans, instructive_trajectories

TEXT_CHARACTERS = 1200
"""Longer decisions and observations are cut in the report; `igpo show` has them whole."""


def write_report(
    runs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    runs_dir: str | os.PathLike[str] = "runs",
) -> Path:
    """Writes the report of `runs` (folders, experiment names, run ids, `last`) to `path`, one self-contained
    HTML file.

    The page loads nothing over the network and says so to the browser (its content security policy forbids
    it). Returns `path`. Raises AnalysisError if a run does not exist or has an empty log, or if `path` cannot
    be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise AnalysisError(f"{path}: the report cannot be written: there is no folder {path.parent}")
    with open_run(*runs, runs_dir=runs_dir) as run:
        reported = reported_runs(run)
        templates = environment()
        templates.filters |= {"shorten": _shorten, "mark_golds": mark_golds, "quote": shlex.quote}
        html = templates.get_template("report.html").render(
            runs=reported,
            differences=config_differences(reported),
            glance=glance(run, reported),
            sections=sections(run, reported),
            tables=tables(run, reported),
            instructive=[_instructive(run, one) for one in reported],
            case_study=CASE_STUDY,
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            **assets(),
        )  # fmt: skip
    try:
        write_text(path, html)
    except OSError as error:
        raise AnalysisError(f"{path}: the report cannot be written: {error.strerror or error}") from error
    return path


def _instructive(run: Run, one: ReportedRun) -> tuple[ReportedRun, list[Instructive], Figure | None]:
    """Returns a run, its rollouts to read, and the plot of the case study if it has one."""
    found = instructive_trajectories(run, one.run_id)
    plots = [case_study_figure(run, item.trajectory) for item in found if item.reason == CASE_STUDY]
    return one, found, plots[0] if plots else None


def _shorten(text: str | None) -> str:
    text = (text or "").strip()
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + " …"


def mark_golds(text: str, golds: list[str]) -> Markup:
    """`text` as HTML with each gold answer in a `<mark>`."""
    parts, end = [], 0
    for start, stop in gold_spans(text, golds):
        parts += [escape(text[end:start]), Markup("<mark>"), escape(text[start:stop]), Markup("</mark>")]
        end = stop
    return Markup("").join([*parts, escape(text[end:])])
