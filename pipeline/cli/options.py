"""Arguments and options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting; dots go inward. May be given several times."
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the code that the checkpoint's own experiment names, such as tools."),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, show_default=False, help="Show the libraries' logs; -vv: all."
    ),
]
Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="A checkpoint; a run, for its last one; or a Hugging Face folder."
    ),
]
CheckpointConfig = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Experiment file; a checkpoint brings its own, else conf/igpo.yaml.",
    ),
]


def experiment_file(words: str) -> str:
    """The path of the experiment file that `words` name, after saying so where it is a packaged copy.

    Raises:
        InputError: there is no such file.
    """
    from pipeline.experiment.conf_files import resolve_config_path
    from pipeline.terminal import say

    path, is_packaged = resolve_config_path(words)
    if is_packaged:
        say(f"{words} is not here; using the copy that ships with the package: {path}")
    return str(path)


def make_room_for(out: Path) -> None:
    """Makes the folder of `out`, before the work whose result goes there.

    Raises:
        InputError: no file can be written there.
    """
    from envs.errors import InputError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        is_new = not os.path.lexists(out)
        with out.open("a"):
            pass
        if is_new:
            out.unlink()
    except OSError as error:
        raise InputError(
            f"{out}: no file can be written there: {error.strerror}; name another place with --out."
        ) from error


def policy_named(words: str) -> str:
    """The last checkpoint of the run that `words` name (`last`, an experiment's name, a run's id or folder),
    else `words` themselves: a checkpoint, a model's folder or name.

    Raises:
        InputError: there is nothing of this name, or the run has no checkpoint yet.
    """
    from envs.engine.models import SMOLLM2, TINY
    from envs.errors import InputError
    from pipeline.analysis.locate import locate_run
    from pipeline.terminal import say

    home = Path("runs")
    is_run = any(
        (folder / "run.json").is_file() or any(folder.glob("*/run.json"))
        for folder in (Path(words).expanduser(), home / words)
        if folder.is_dir()
    )
    is_id = "/" not in words and any(home.glob(f"*/{words}/run.json"))
    if words != "last" and not is_run and not is_id:
        if "/" not in words and words not in (*TINY, SMOLLM2) and not os.path.exists(words):
            raise InputError(
                f"{words}: there is no such run (`igpo runs` lists them), checkpoint or model: a model is a "
                f"folder, a hub name (OWNER/NAME), `tiny` or `{SMOLLM2}`."
            )
        return words
    checkpoint = locate_run(words, home).folder / "checkpoints" / "last"
    if not checkpoint.exists():
        raise InputError(f"{words}: this run has no checkpoint yet: {checkpoint} does not exist.")
    say(f"policy  {checkpoint}")
    return str(checkpoint)
