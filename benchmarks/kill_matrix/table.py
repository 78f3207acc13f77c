"""The results as a Markdown table: a row for each configuration and process, summed over phases and kills."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.kill_matrix.cells import CONFIGURATIONS, PHASES, PROCESSES

COUNTED = {
    "lost": "runs lost",
    "iterations_repeated": "iterations repeated, most",
    "prompts": "prompts skipped or repeated",
    "rows_doubled": "rows doubled",
    "metrics": "metrics doubled or missing",
    "values_different": "values different",
    "tensors_different": "tensors different",
    "reads_failed": "reads that failed",
}


def table(results: Iterable[dict[str, Any]]) -> str:
    """Markdown."""
    rows = list(results)
    lines = [
        f"| configuration | killed | phases | kills | {' | '.join(COUNTED.values())} |",
        "|" + "---|" * (4 + len(COUNTED)),
    ]
    keys = sorted({(row["configuration"], row["process"]) for row in rows}, key=_place)
    for key in keys:
        of_row = [row for row in rows if (row["configuration"], row["process"]) == key]
        phases = sorted({row["phase"] for row in of_row}, key=list(PHASES).index)
        lines.append(f"| {' | '.join(key)} | {', '.join(phases)} | {len(of_row)} | {_numbers(of_row)} |")
    lines.append(f"| all | | | {len(rows)} | {_numbers(rows)} |")
    return "\n".join(lines)


def _numbers(rows: list[dict[str, Any]]) -> str:
    return " | ".join(str(_count(name, rows)) for name in COUNTED)


def _count(name: str, rows: list[dict[str, Any]]) -> int:
    parts = {
        "prompts": ("prompts_skipped", "prompts_repeated"),
        "metrics": ("metrics_doubled", "metrics_missing"),
    }.get(name, (name,))
    numbers = [sum(int(row.get(part, 0)) for part in parts) for row in rows]
    return max(numbers, default=0) if name == "iterations_repeated" else sum(numbers)


def _place(key: tuple[str, str]) -> tuple[int, int]:
    configuration, process = key
    return list(CONFIGURATIONS).index(configuration), list(PROCESSES).index(process)
