"""Arguments and options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer

from pipeline.cli.complete import complete_run

RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A folder, a name, a run id, or `last`.", autocompletion=complete_run),
]
RunsDir = Annotated[Path, typer.Option(help="Folder of all runs, where names, ids and `last` are looked up.")]
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
        elif out.is_file():  # a new one takes its place
            with TemporaryFile(dir=out.resolve().parent):
                pass
    except OSError as error:
        raise InputError(
            f"{out}: no file can be written there: {error.strerror}; name another place with --out."
        ) from error
