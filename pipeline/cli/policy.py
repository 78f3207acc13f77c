"""The policy that a person names: a run, for its last checkpoint, a checkpoint, or a model."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

MODEL_FILES = ("config.json", "adapter_config.json")
"""A Hugging Face folder has one of them."""


def policy_named(words: str, runs_dir: Path = Path("runs")) -> str:
    """The last checkpoint of the run that `words` name (`last`, an experiment's name, a run's id or folder),
    else `words` themselves: a checkpoint, a model's folder or name. Says which checkpoint of a run it is.

    Raises:
        InputError: there is nothing of this name, or the run has no checkpoint yet.
    """
    from envs.errors import InputError
    from pipeline.analysis.locate import locate_run
    from pipeline.terminal import say

    if not _is_run(words, runs_dir):
        _check_exists(words, runs_dir)
        return words
    checkpoint = locate_run(words, runs_dir).folder / "checkpoints" / "last"
    if not checkpoint.exists():
        raise InputError(f"{words}: this run has no checkpoint yet: {checkpoint} does not exist.")
    say(f"policy  {checkpoint}{_which(checkpoint.parent)}")
    return str(checkpoint)


def _is_run(words: str, runs_dir: Path) -> bool:
    """Whether `words` name a run, or an experiment with runs."""
    if words == "last" or ("/" not in words and any(runs_dir.glob(f"*/{words}/run.json"))):
        return True
    return any(
        (folder / "run.json").is_file() or any(folder.glob("*/run.json"))
        for folder in (Path(words).expanduser(), runs_dir / words)
        if folder.is_dir()
    )


def _which(checkpoints: Path) -> str:
    """Of which iteration the last checkpoint is, and the best."""
    from pipeline.run_directory.checkpoints import Checkpoints, iteration_of

    kept = Checkpoints(checkpoints)
    if kept.last is None:
        return ""
    told = f", the last checkpoint, of iteration {iteration_of(kept.last)}"
    if kept.best is None:
        return told
    if kept.best == kept.last:
        return f"{told}, and the best"
    return f"{told}; the best, of iteration {iteration_of(kept.best)}, is {checkpoints / 'best'}"


def _check_exists(words: str, runs_dir: Path) -> None:
    """Raises InputError for words that are no checkpoint, no model's folder and no name of a model."""
    from envs.engine.models import SMOLLM2, TINY
    from envs.errors import InputError
    from pipeline.evaluation.saved_policy import RLLIB_FILE
    from pipeline.run_directory.checkpoints import NOTE

    path = Path(words).expanduser()
    if os.path.isdir(path):
        if any((path / name).is_file() for name in (NOTE, RLLIB_FILE, *MODEL_FILES)):
            return
        last = next(
            (folder / "last" for folder in (path, path / "checkpoints") if (folder / "last").exists()), None
        )
        hint = f"did you mean {last}?" if last else "`igpo runs` lists the runs."
        raise InputError(f"{words}: this folder is no run, checkpoint or Hugging Face model; {hint}")
    if os.path.exists(path) or words in (*TINY, SMOLLM2) or _may_be_hub_name(words, runs_dir):
        return
    said = f"{words}: there is no such run (`igpo runs` lists them), checkpoint or model"
    if near := _nearest(path, words, runs_dir):
        raise InputError(f"{said}; did you mean {near}?")
    raise InputError(f"{said}: a model is a folder, a hub name (OWNER/NAME), `tiny` or `{SMOLLM2}`.")


def _may_be_hub_name(words: str, runs_dir: Path) -> bool:
    """Whether `words` have the form OWNER/NAME, and OWNER is no folder here or among the runs."""
    owner, _, name = words.partition("/")
    is_name = name and "/" not in name and owner and not owner.startswith((".", "~"))
    return bool(is_name) and not Path(owner).is_dir() and not (runs_dir / owner).is_dir()


def _nearest(path: Path, words: str, runs_dir: Path) -> str | None:
    """The run, or what lies in the folder of `path`, whose name is nearest to what was typed."""
    from pipeline.analysis.locate import nearest_run

    try:
        beside = sorted(item.name for item in path.parent.iterdir() if item.is_dir())
    except OSError:
        beside = []
    if "/" in words and (near := get_close_matches(path.name, beside, n=1)):
        return str(path.parent / near[0])
    return nearest_run(words, runs_dir)
