"""`igpo runs`: the runs of a folder, newest first, with what they reached."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.text import Text

from envs.errors import InputError
from pipeline.evaluation.heldout_scores import load_scores, mean_score
from pipeline.fitted_table import Column, print_fitted
from pipeline.run_directory.directory import HELDOUT_BEFORE, HELDOUT_LAST, METADATA, RunDirectory
from pipeline.terminal import Console

MINUTES = "%Y-%m-%d %H:%M"


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in one line. What is not known is None."""

    name: str
    run_id: str
    created: str
    """ISO 8601, in UTC."""
    status: str
    """`new`, `running`, `died` (killed in the midst), `finished`, `interrupted`, `failed`, or
    `damaged: WHY`."""
    preset: str | None = None
    iteration: int | None = None
    em_before: float | None = None
    """Held-out exact match before training, in [0, 1]."""
    em_after: float | None = None
    set: tuple[str, ...] = ()
    """What `--set` and the grid changed, `KEY=VALUE` each."""


def runs_in(folder: Path, name: str | None = None) -> list[ListedRun]:
    """Lists the runs of `folder`, newest first.

    Args:
        folder: `runs`, where each run is `NAME/RUN_ID`.
        name: only the experiment of this name.
    """
    found = [_listed(path.parent) for path in folder.glob(f"{name or '*'}/*/{METADATA}")]
    return sorted(found, key=lambda run: (run.created, run.run_id), reverse=True)


def show_runs(runs: list[ListedRun], console: Console) -> None:
    """Prints a line per run; ids are whole, as the other commands take them. What every run set is said once,
    below.
    """
    common = _in_every(runs)
    columns = {
        "name": [run.name for run in runs],
        "run": [run.run_id for run in runs],
        "EM before": [_score(run.em_before) for run in runs],
        "EM after": [_score(run.em_after) for run in runs],
        "iterations": ["" if run.iteration is None else str(run.iteration) for run in runs],
        "status": [run.status for run in runs],
        "set": [", ".join(change for change in run.set if change not in common) for run in runs],
        "preset": [_estimator(run.preset or "") for run in runs],
        "started": [_local(run.created) for run in runs],
    }
    numbers = ("EM before", "EM after", "iterations")
    print_fitted(
        console,
        [
            Column(
                name,
                [Text(value) for value in values],
                is_number=name in numbers,
                stays=name in ("name", "run"),
            )
            for name, values in columns.items()
        ],
    )
    if common:
        console.print(f"set in every run: {', '.join(common)}", style="dim", soft_wrap=True)


def _in_every(runs: list[ListedRun]) -> list[str]:
    """What all of several runs set alike."""
    if len(runs) < 2:
        return []
    return [change for change in runs[0].set if all(change in run.set for run in runs)]


def _listed(folder: Path) -> ListedRun:
    name, run_id = folder.parent.name, folder.name
    try:
        run = RunDirectory(folder)
        metadata = run.metadata
        before, after = load_scores(folder / HELDOUT_BEFORE), load_scores(folder / HELDOUT_LAST)
        return ListedRun(
            name,
            run_id,
            str(metadata.get("created", "")),
            _status(run, metadata),
            preset=metadata.get("preset") or _preset(run),
            iteration=metadata.get("iteration"),
            em_before=mean_score(before[1], "em") if before else None,
            em_after=mean_score(after[1], "em") if after else None,
            set=tuple(_changes(metadata)),
        )
    except InputError as error:
        return ListedRun(name, run_id, "", f"damaged: {error}")


def _status(run: RunDirectory, metadata: dict[str, Any]) -> str:
    status = str(metadata["status"])
    return "died" if status == "running" and not run.is_locked else status


def _preset(run: RunDirectory) -> str | None:
    """The preset of a run whose metadata do not say it; None where its configuration cannot be read."""
    try:
        (keys,) = run.resolved.values()
        return keys["config"].get("preset")
    except (OSError, ValueError, AttributeError, LookupError, TypeError, yaml.YAMLError):
        return None


def _changes(metadata: dict[str, Any]) -> list[str]:
    """What the command line set (`--set lr=1e-5`), and the choices of a grid."""
    words = [str(word) for word in metadata.get("command") or []]
    found = [value for option, value in zip(words, words[1:], strict=False) if option == "--set"]
    found += [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    return found + ([str(metadata["label"])] if metadata.get("label") else [])


def _estimator(preset: str) -> str:
    """An estimator of one's own, `module:function`, without its module, which `run.json` has."""
    _, colon, function = preset.rpartition(":")
    return f"…:{function}" if colon else preset


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _local(created: str) -> str:
    """The time here, to the minute; empty where it is not known."""
    try:
        return datetime.datetime.fromisoformat(created).astimezone().strftime(MINUTES)
    except ValueError:
        return ""
