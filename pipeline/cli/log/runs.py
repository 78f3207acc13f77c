"""`igpo runs`: lists runs. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.complete import complete_name
from pipeline.cli.options import RunsDir


def runs_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Only the runs of this experiment.", autocompletion=complete_name
        ),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """List runs, newest first: name, id, held-out exact match before and after, status, preset, date.

    Examples:

    - `igpo runs`
    - `igpo runs igpo-grpo`
    """
    from envs.errors import InputError
    from pipeline.cli.output import make_console
    from pipeline.viewer.run_list import runs_in, show_runs

    found = runs_in(runs_dir, name)
    if not found:
        where = runs_dir / name if name else runs_dir
        if name and runs_in(runs_dir):
            raise InputError(f"no run in {where}: `igpo runs` without a name lists those that there are.")
        raise InputError(
            f"no run in {where}: train one (`rllib train file conf/igpo.yaml`), or see --runs-dir."
        )
    show_runs(found, make_console())
