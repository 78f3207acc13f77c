"""Evaluations in the layout of the paper's tables, beside what the paper and others published."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from envs.errors import InputError
from pipeline.evaluation.benchmark_table import AVERAGE

MODELS = ("7b", "3b")
METRIC = "f1_paper"
UNNAMED = "(not named)"


def published() -> dict[str, Any]:
    """The published numbers: `columns`, `rows` by model, and `others` in words."""
    return yaml.safe_load((files("pipeline.paper") / "published.yaml").read_text("utf-8"))


def paper_tables(evaluations: Sequence[Path], model: str) -> Iterator[Table | Text]:
    """Yields the table, its sources, and what others measured in other settings.

    Args:
        evaluations: files that `rllib evaluate --out` wrote.
        model: whose published rows are shown, one of `MODELS`.

    Raises:
        InputError: a file cannot be read, or is no such evaluation.
    """
    known = published()
    columns: dict[str, str] = known["columns"]
    measured = {path: scores_of(path) for path in evaluations}
    more = list(dict.fromkeys(name for scores in measured.values() for name in scores if name not in columns))
    table = Table(
        title=f"F1 in percent, Qwen2.5-{model.upper()}-Instruct where published", title_justify="left"
    )
    table.add_column("", overflow="fold")
    for name in [*columns.values(), AVERAGE, *(name or UNNAMED for name in more)]:
        table.add_column(name, justify="right")
    for row in known["rows"][model]:
        values = dict(zip(columns, row["values"], strict=True))
        table.add_row(row["name"], *_cells(values, columns), *("" for _ in more))
    if measured:
        table.add_section()
    for path, scores in measured.items():
        means = {name: 100 * score["mean"] for name, score in scores.items()}
        table.add_row(str(path), *_cells(means, columns), *_shown(means, more), style="bold")
        bounds = {name: _interval(score) for name, score in scores.items()}
        shown = [bounds.get(name, "") for name in (*columns, None, *more)]
        table.add_row(
            f"  {sum(score['questions'] for score in scores.values()):,} questions", *shown, style="dim"
        )
    yield table
    for row in known["rows"][model]:
        yield Text(f"{row['name']} ({row['source']})", style="dim")
    yield Text("Measured by others, in other settings:")
    for other in known["others"]:
        yield Text(f"- {other['what']} ({other['source']})")


def scores_of(path: Path) -> dict[str, dict[str, Any]]:
    """Data set to mean, interval and number of questions, from a file of `rllib evaluate --out`.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    try:
        by_set = dict(json.loads(path.read_text("utf-8"))["summary"]["by_data_source"][METRIC])
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no evaluation: make one with `rllib evaluate CHECKPOINT --questions "
            f"paper_data/heldout.jsonl --out {shlex.quote(path.name)}`"
        ) from error
    by_set.pop(AVERAGE, None)
    return by_set


def _cells(values: dict[str, float | None], columns: dict[str, str]) -> list[str]:
    """The data sets' values, and their average where there are all of them."""
    given = [values[name] for name in columns if values.get(name) is not None]
    mean = f"{sum(given) / len(given):.1f}" if len(given) == len(columns) else ""  # ty: ignore[no-matching-overload]
    return [*_shown(values, list(columns)), mean]


def _shown(values: dict[str, float | None], names: list[str]) -> list[str]:
    return ["" if (value := values.get(name)) is None else f"{value:.1f}" for name in names]


def _interval(score: dict[str, Any]) -> str:
    return f"{100 * score['low']:.1f}-{100 * score['high']:.1f}"
