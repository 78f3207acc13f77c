"""`igpo study`: compares methods over seeds and difficulties. `igpo` mounts this function."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import experiment_file
from pipeline.exit_codes import FAILED, INTERRUPTED


def study_command(
    plan: Annotated[str, typer.Argument(metavar="[PLAN]", help="The study's file.")] = "conf/study.yaml",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the cells' tables and the report.")
    ] = Path("runs/study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="The few cells of the plan's `quick` section.")
    ] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing: report what is finished.")
    ] = False,
    baseline: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Compare with this method, not with the plan's.")
    ] = None,
) -> None:
    """Compare methods over seeds and difficulties, and write the report.

    Every finished cell is stored as a small table. A study that was stopped goes on with the missing cells.

    Examples:

    - `igpo study` (all of conf/study.yaml)
    - `igpo study --quick --out runs/quick_study`
    - `igpo study --report-only --baseline dapo`
    """
    from pipeline.logging import configure_logging, configure_ray_logging, native_stderr_to
    from pipeline.terminal import Console, say

    configure_logging(0)
    from pipeline.study.plan import load_plan
    from pipeline.study.report import write_study_report
    from pipeline.study.study import finished_cells, run_study
    from pipeline.study.summary import print_summary
    from pipeline.training.launch import LaunchOptions
    from pipeline.training.ray_processes.watch import RayLostError, leave_lost_ray

    console = Console()
    configure_ray_logging(0)
    loaded = load_plan(experiment_file(plan), quick=quick, baseline=baseline)
    if report_only:
        cells, missing = finished_cells(loaded, out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        try:
            with native_stderr_to(out / "native.log"):
                cells, missing = run_study(loaded, out, LaunchOptions(command=tuple(sys.argv)), console), 0
        except KeyboardInterrupt:
            console.print(f"stopped; finished cells are kept in {out}: the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
        except RayLostError as error:
            say(f"stopped: {error}; finished cells are kept in {out}: the same command goes on", error=True)
            leave_lost_ray(FAILED)
            raise typer.Exit(FAILED) from None
    path = write_study_report(loaded, cells, missing, out / "report.html")
    print_summary(loaded, cells, console)
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
