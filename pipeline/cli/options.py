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
    int, typer.Option("-v", "--verbose", count=True, help="Show the libraries' logs; -vv: all.")
]
Checkpoint = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of a run, or a Hugging Face folder.")
]
CheckpointConfig = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Experiment file; a checkpoint brings its own, else conf/igpo.yaml.",
    ),
]


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
