"""`igpo report`: writes runs as one HTML file. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.complete import complete_run
from pipeline.cli.options import RunsDir


def report_command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="A folder, a name, a run id, or `last`.", autocompletion=complete_run
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("report.html"),
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Write what happened in one or several runs, in the order given, as one HTML file that needs no network.

    Learning curves, groups that information gain rescued, gain and advantage by turn, credit against
    evidence, what goes wrong, where the time goes, settings that differ, and the rollouts most worth reading.

    Examples:

    - `igpo report` (the newest run)
    - `igpo report igpo igpo-grpo --out comparison.html`
    """
    from pipeline.terminal import Console, say

    console = Console(stderr=True)
    with console.status("writing the report ..."):
        from pipeline.analysis import locate_run
        from pipeline.analysis.report import write_report

        path = write_report(runs or ["last"], out, runs_dir)
    for run in runs or ["last"]:
        if choice := locate_run(run, runs_dir).choice:
            say(f"{run}: {choice}")
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
