"""What Tab completes: runs, presets, shipped questions. It reads names only, so that it answers at once."""

from __future__ import annotations

from pathlib import Path

from typer import Context

RUN_FILES = "*/*/run.json"


def complete_run(ctx: Context, incomplete: str) -> list[str]:
    """`last`, the names of experiments, and the ids of runs; of paths the shell's own completion."""
    folder = Path(ctx.params.get("runs_dir") or "runs")
    runs = [path.parent for path in folder.glob(RUN_FILES)]
    names, ids = {run.parent.name for run in runs}, (run.name for run in runs)
    words = ["last", *sorted(names), *sorted(ids, reverse=True)]
    return [word for word in words if word.startswith(incomplete)]


def complete_name(ctx: Context, incomplete: str) -> list[str]:
    """The names of experiments."""
    folder = Path(ctx.params.get("runs_dir") or "runs")
    names = {path.parent.parent.name for path in folder.glob(RUN_FILES)}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_preset(incomplete: str) -> list[str]:
    """The estimators that ship."""
    from algorithms.credit import PRESETS

    return sorted(name for name in PRESETS if name.startswith(incomplete))


def complete_question(incomplete: str) -> list[str]:
    """The shipped questions in SQL."""
    from importlib.resources import files

    folder = files("pipeline.analysis") / "queries"
    names = (entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return sorted(name for name in names if name.startswith(incomplete))
