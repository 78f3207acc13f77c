"""Makes one Markdown table of the study for the terminal."""

from __future__ import annotations

from rich.box import MARKDOWN
from rich.table import Table

from pipeline.study.plan import Plan
from pipeline.study.report import final_rows
from pipeline.study.store import FinishedCell
from pipeline.study.tables import Estimate, compare


def summary_table(plan: Plan, cells: list[FinishedCell]) -> Table:
    """Makes a row per difficulty and method: final scores, and the paired comparison with the baseline."""
    against = {(row.difficulty, row.method): row for row in compare(cells, plan.baseline)}
    columns = (
        "difficulty",
        "method",
        "lr",
        "seeds",
        "EM",
        f"against {plan.baseline}",
        "p (Holm)",
        "rollouts, ratio",
        "greedy EM",
    )
    table = Table(*columns, box=MARKDOWN)
    for row in final_rows(plan, cells):
        compared = against.get((row["difficulty"], row["method"]))
        table.add_row(
            row["difficulty"],
            row["method"],
            f"{row['learning_rate']:g}",
            str(row["seeds"]),
            _shown(row["em"], "{:.3f}"),
            _shown(compared.difference, "{:+.3f}") if compared else "",
            f"{compared.p:.3f} ({compared.p_holm:.3f})" if compared else "",
            _shown(compared.rollouts_ratio, "{:.2f}") if compared else "",
            _shown(row["greedy"], "{:.3f}"),
        )
    return table


def _shown(estimate: Estimate | None, form: str) -> str:
    if estimate is None:
        return "not reached"
    return f"{form.format(estimate.mean)} [{form.format(estimate.low)}, {form.format(estimate.high)}]"
