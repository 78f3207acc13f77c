"""`igpo profile`: shows the seconds of each phase of a run. `igpo` mounts this function."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.options import RunName, RunsDir


def profile_command(
    run: RunName = "last",
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Show where a run's time goes: seconds per phase of its iterations, stacked, and which phase is the
    largest.

    Also sampled tokens per second and the peak memory of sampling and learning. `igpo report` draws the
    phases of several runs.

    Example: `igpo profile last`
    """
    from pipeline.analysis.profile import profile, show
    from pipeline.analysis.run import open_run
    from pipeline.cli.output import make_console

    with open_run(run, runs_dir=runs_dir) as opened:
        show(profile(opened), make_console())
