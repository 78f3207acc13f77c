"""Named queries that read best as a table, each with the question it answers; long ones are cut and
say so."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.analysis.answers import cell
from pipeline.analysis.named_queries import named_query
from pipeline.analysis.report.reported_runs import ReportedRun
from pipeline.analysis.run import Run
from pipeline.analysis.sandbox import sql_text

ROWS = 12
"""Rows per run that a table shows."""

BOTH_ENDS = "queries_by_gain"
"""Sorted from the most earned to the most lost: its first and its last rows are worth seeing."""

TABLES = (
    "gain_breakdown",
    BOTH_ENDS,
    "gain_by_evidence",
    "bridge_turns_punished",
    "lost_evidence",
    "unsolved_questions",
    "format_failures",
    "tool_errors",
)


@dataclass(frozen=True, slots=True)
class NamedTable:
    """A query's answer as text.

    `numeric` says which columns are numbers; `left_out` counts rows that are not shown.
    """

    name: str
    question: str
    notes: str
    columns: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    left_out: int


def tables(run: Run, runs: list[ReportedRun]) -> list[NamedTable]:
    """Returns the tables of `TABLES` that have rows. Runs go by their label, which a report of one run leaves
    out.
    """
    return [table for name in TABLES if (table := _table(run, runs, name)).rows]


def _table(run: Run, runs: list[ReportedRun], name: str) -> NamedTable:
    query, relation = named_query(name), run.named(name)
    columns = relation.columns[1:]
    numeric = [type_.id not in ("varchar", "list", "boolean") for type_ in relation.types[1:]]
    rows, left_out = [], 0
    for one in runs:
        own = relation.filter(f"run_id = {sql_text(one.run_id)}").fetchall()
        first = ROWS // 2 if name == BOTH_ENDS else ROWS
        last = max(first, len(own) - (ROWS - first))
        shown = own[:first] + own[last:]
        left_out += len(own) - len(shown)
        label = [one.label] if len(runs) > 1 else []
        rows += [label + [cell(value) for value in row[1:]] for row in shown]
    if len(runs) > 1:
        columns, numeric = ["run", *columns], [False, *numeric]
    return NamedTable(name, query.question, query.notes, columns, numeric, rows, left_out)
