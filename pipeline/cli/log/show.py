"""`igpo show` and `igpo browse`: show rollouts in the terminal. `igpo` mounts these functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import RunName, RunsDir


def show_command(
    run: RunName,
    episode: Annotated[
        str | None, typer.Argument(metavar="EPISODE", help="The rollout's episode_id.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Rollouts whose question contains this.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The best rollout by outcome, then by total gain.")
    ] = False,
    worst: Annotated[bool, typer.Option("--worst", help="The worst one.")] = False,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Only rollouts of this iteration.  [default: all]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only `train` or `heldout` rollouts.")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Show a rollout turn by turn: query, evidence with the gold answer marked, belief, gain, advantage,
    seconds.

    Without an episode, `--question`, `--best` or `--worst`, the newest rollouts are listed.

    Examples:

    - `igpo show last`
    - `igpo show last --worst`
    - `igpo show runs/igpo --question "mother of fata" --best`
    - `igpo show last 000008/train-000933/7`
    """
    from envs.errors import InputError
    from pipeline.analysis import open_run
    from pipeline.cli.output import make_console
    from pipeline.terminal import Console
    from pipeline.viewer.show import list_episodes, show_episode

    if split not in (None, "train", "heldout"):
        raise InputError(f"--split {split}: it must be train or heldout.")
    with open_run(run, runs_dir=runs_dir) as opened:
        if episode is None and question is None and not best and not worst:
            list_episodes(opened, make_console(), iteration=iteration, split=split)
            return
        show_episode(
            opened,
            Console(),
            episode=episode,
            question=question,
            best=best,
            worst=worst,
            iteration=iteration,
            split=split,
        )


def browse_command(run: RunName, runs_dir: RunsDir = Path("runs")) -> None:
    """Page through all rollouts of a run: filter, sort, read, and compare the rollouts of one group side by
    side.

    Example: `igpo browse last`
    """
    import sys

    from envs.errors import InputError
    from pipeline.analysis import open_run

    if not sys.stdout.isatty():
        raise InputError("igpo browse needs a terminal; `igpo show` prints a rollout, `igpo sql` a table.")
    with open_run(run, runs_dir=runs_dir) as opened:
        from pipeline.viewer.browse import Browser

        Browser(opened).run()
