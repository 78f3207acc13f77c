"""Makes one table of the study for the terminal."""

from __future__ import annotations

from rich.box import MARKDOWN
from rich.table import Table
from rich.text import Text

from pipeline.fitted_table import Column, print_fitted
from pipeline.study.plan import Plan
from pipeline.study.report import final_rows
from pipeline.study.store import FinishedCell
from pipeline.study.tables import Estimate, compare
from pipeline.terminal import Console

WORDS = ("difficulty", "method")
MARKDOWN_WIDTH = 180


def print_summary(plan: Plan, cells: list[FinishedCell], console: Console) -> None:
    """Prints a row per difficulty and method: final scores, and the paired comparison with the baseline.

    A terminal shows the columns that fit; a file or pipe gets all of them as Markdown.
    """
    rows = summary_rows(plan, cells)
    names = list(rows[0]) if rows else []
    if console.is_terminal:
        columns = [
            Column(name, [Text(row[name]) for row in rows], is_number=name not in WORDS, stays=name in WORDS)
            for name in names
        ]
        print_fitted(console, columns)
        return
    table = Table(*names, box=MARKDOWN)
    for row in rows:
        table.add_row(*row.values())
    Console(file=console.file, width=MARKDOWN_WIDTH).print(table)


def summary_rows(plan: Plan, cells: list[FinishedCell]) -> list[dict[str, str]]:
    """Makes the rows of the table: column to text."""
    against = {(row.difficulty, row.method): row for row in compare(cells, plan.baseline)}
    rows = []
    for row in final_rows(plan, cells):
        compared = against.get((row["difficulty"], row["method"]))
        rows.append(
            {
                "difficulty": row["difficulty"],
                "method": row["method"],
                "lr": row["learning_rate"],
                "seeds": str(row["seeds"]),
                "EM": _shown(row["em"], "{:.3f}"),
                f"against {plan.baseline}": _shown(compared.difference, "{:+z.3f}") if compared else "",
                "p (Holm)": f"{compared.p:.3f} ({compared.p_holm:.3f})" if compared else "",
                "rollouts, ratio": _shown(compared.rollouts_ratio, "{:.2f}") if compared else "",
                "greedy EM": _shown(row["greedy"], "{:.3f}"),
            }
        )
    return rows


def _shown(estimate: Estimate | str, form: str) -> str:
    if isinstance(estimate, str):
        return estimate
    return f"{form.format(estimate.mean)} [{form.format(estimate.low)}, {form.format(estimate.high)}]"
