"""The results of a finished run: the answers of all named queries, and the report."""

from __future__ import annotations

from pathlib import Path

from pipeline.analysis.answers import write_answer
from pipeline.analysis.named_queries import named_queries
from pipeline.analysis.run import open_run

RESULTS = "results"
REPORT = "report.html"


def write_results(folder: Path) -> list[Path]:
    """Writes `results/NAME.csv` per named query and `results/report.html` into a run's folder; returns their
    paths.

    Raises AnalysisError if the run's log is empty.
    """
    from pipeline.analysis.report import write_report

    results = folder / RESULTS
    results.mkdir(exist_ok=True)
    with open_run(folder) as run:
        for name in named_queries():
            write_answer(run.named(name).to_arrow_table(), "csv", results / f"{name}.csv")
    write_report([folder], results / REPORT)
    return sorted(results.iterdir())
