"""Finds a run's log by what a person types: a folder, an experiment's name, a run id, or `last`."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from envs.errors import InputError
from pipeline.rollout_log.folder import LogFolder, RolloutLogError, is_url, open_folder
from pipeline.rollout_log.manifest import MANIFEST, load_manifest
from pipeline.run_directory.directory import LOG_LOCATION

ROLLOUTS = "rollouts"


class AnalysisError(InputError):
    """A question that cannot be answered as asked; the message says what to change."""


@dataclass(frozen=True, slots=True)
class RunLocation:
    """A run that was found.

    `choice` says which one was picked where the words fitted several, else it is None.
    """

    folder: Path
    """The folder for files about the run: its own; for a log given by URL, the working directory."""
    log: LogFolder
    choice: str | None = None


def locate_run(run: str | os.PathLike[str], runs_dir: str | os.PathLike[str] = "runs") -> RunLocation:
    """Finds a run by its folder, its log's folder or URL, an experiment's folder or name (newest run), a run
    id, or `last`.

    Raises AnalysisError naming the nearest run if there is none.
    """
    text, home = os.fspath(run), Path(runs_dir)
    if is_url(text):
        return RunLocation(Path(), open_folder(text))
    if text == "last":
        return _newest(_runs_below(home, depth=2), f"in {home}")
    for folder in (Path(text), home / text):
        if log := _log_of(folder):
            return RunLocation(folder, log)
        if (folder / MANIFEST).exists():
            return RunLocation(folder.parent, open_folder(folder))
        if folder.is_dir() and (found := _runs_below(folder, depth=1)):
            return _newest(found, f"of {folder}")
    by_id = [folder for folder in _runs_below(home, depth=2) if folder.name == text]
    if by_id:
        return _newest(by_id, f"with id {text}")
    raise AnalysisError(_not_found(text, home))


def locate_folder(
    run: str | os.PathLike[str], runs_dir: str | os.PathLike[str] = "runs", *, what: str
) -> RunLocation:
    """Finds a run as `locate_run` does, for a command that needs its folder: a log's URL does not tell it.

    Args:
        run: what a person typed.
        runs_dir: folder of all runs.
        what: what the folder has that the command needs, such as "holds its checkpoints".

    Raises:
        AnalysisError: `run` is a URL, or there is none.
    """
    if is_url(os.fspath(run)):
        raise AnalysisError(f"{run}: name the run's folder instead, which {what}.")
    return locate_run(run, runs_dir)


def _log_of(folder: Path) -> LogFolder | None:
    """Returns the log of a run's folder, which may be on another file system."""
    elsewhere = folder / LOG_LOCATION
    if elsewhere.exists():
        return open_folder(elsewhere.read_text().strip())
    return open_folder(folder / ROLLOUTS) if (folder / ROLLOUTS / MANIFEST).exists() else None


def _runs_below(folder: Path, depth: int) -> list[Path]:
    below = "/".join(["*"] * depth)
    found = {path.parent.parent for path in folder.glob(f"{below}/{ROLLOUTS}/{MANIFEST}")}
    return sorted(found | {path.parent for path in folder.glob(f"{below}/{LOG_LOCATION}")})


def _newest(folders: list[Path], where: str) -> RunLocation:
    if not folders:
        raise AnalysisError(f"no run {where}: train one (`rllib train file ...`), or name a run's folder")
    newest = max(folders, key=lambda folder: (_started_at(folder), folder))
    which = "the only one" if len(folders) == 1 else f"the newest of {len(folders)}"
    choice = f"{newest}, {which} {where}"
    return replace(locate_run(newest), choice=choice)


def _started_at(folder: Path) -> str:
    """Returns the start of the run's latest attempt; empty for a log that cannot be read."""
    log = _log_of(folder)
    try:
        return load_manifest(log).last_started_at if log else ""
    except RolloutLogError:
        return ""


def _not_found(text: str, home: Path) -> str:
    folder = Path(text)
    if folder.is_dir():
        return (
            f"no rollout log in {folder}: a run's folder holds {ROLLOUTS}/{MANIFEST}, "
            "written when the run starts"
        )
    message = f"no run {text!r}"
    if near := nearest_run(text, home):
        return f"{message}; did you mean {near}?"
    names = sorted({str(path.parent) for path in _runs_below(home, depth=2)})
    if names:
        return (
            f"{message}; there are runs of {', '.join(names)}, and `last` names the newest "
            "(`igpo runs` lists them)"
        )
    return (
        f"{message}, and {home} holds no run yet: train one (`rllib train file ...`), or name a run's folder"
    )


def nearest_run(text: str, home: Path) -> str | None:
    """The run, the experiment's folder, or `last`, whose name or path is nearest to `text`; None: none is."""
    runs = _runs_below(home, depth=2)
    known = {path.name: path for path in runs} | {path.parent.name: path.parent for path in runs}
    words = {name: str(path) for name, path in known.items()} | {
        str(path): str(path) for path in known.values()
    }
    words["last"] = "last"
    near = get_close_matches(text, words, n=1, cutoff=0.5)
    return words[near[0]] if near else None
