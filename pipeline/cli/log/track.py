"""`igpo track`: sends MLflow what it did not get of a run. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import RunName, RunsDir
from pipeline.exit_codes import FAILED


def track_command(
    run: RunName,
    wait: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Patience with a store that does not answer.")
    ] = 60.0,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Send MLflow what it did not get of a run that is over: metrics, traces, files and status.

    Sending again changes nothing. Of a run that died, everything up to its last checkpoint is sent. Exit
    code 1 if the store did not take everything.

    Examples:

    - `igpo track last`
    - `MLFLOW_TRACKING_URI=http://HOST:5000 igpo track runs/igpo/RUN_ID`
    """
    from pipeline.logging import configure_logging

    configure_logging(0)
    from pipeline.analysis.locate import locate_folder
    from pipeline.run_directory.directory import RunDirectory
    from pipeline.terminal import Console, say
    from pipeline.training.attempt import send_rest

    location = locate_folder(run, runs_dir, what="holds what MLflow did not get")
    directory = RunDirectory(location.folder)
    console = Console(stderr=True)
    with directory.lock(), console.status("sending ..."):
        sent = send_rest(directory, wait)
    if not sent.everything:
        say(f"{sent.store} did not take everything: give the same command again", error=True)
        raise typer.Exit(FAILED)
    say(f"{directory.path}: {sent.store} has iteration {sent.iteration} and all before it, as {sent.how}")
