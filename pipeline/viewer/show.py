"""`igpo show`: chooses a rollout and prints it."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from envs.errors import InputError
from pipeline.analysis.run import Run
from pipeline.analysis.trajectories import load_trajectory, select_episodes
from pipeline.terminal import Console, visible
from pipeline.viewer.render import number, render_trajectory, verdict

LISTED = 20
"""Episodes that are listed where none was asked for."""

BEST = "outcome DESC NULLS LAST, gain_total DESC NULLS LAST, iteration DESC, episode_id"
WORST = "outcome NULLS LAST, gain_total NULLS LAST, iteration DESC, episode_id"


def show_episode(
    run: Run,
    console: Console,
    *,
    episode: str | None = None,
    question: str | None = None,
    best: bool = False,
    worst: bool = False,
    iteration: int | None = None,
    split: str | None = None,
) -> None:
    """Print the newest rollout that fits; with `best` or `worst` the extreme by outcome, then by total gain.

    Raises InputError if nothing fits or the conditions exclude each other.
    """
    if best and worst:
        raise InputError("--best and --worst were both given: ask for one of them.")
    if episode is not None and (best or worst or question is not None):
        raise InputError("an episode names one rollout already: leave --question, --best and --worst away.")
    order = {"order": BEST} if best else {"order": WORST} if worst else {}
    (found,) = select_episodes(
        run, episode=episode, question=question, iteration=iteration, split=split, limit=1, **order
    )  # fmt: skip
    console.print(render_trajectory(load_trajectory(run, found)))


def list_episodes(
    run: Run, console: Console, *, iteration: int | None = None, split: str | None = None
) -> None:
    """Print a line for each of the newest rollouts, training first. Raises InputError if there is none."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("iteration", "split", "episode", "question", "answer"):
        table.add_column(column, overflow="fold")
    for column in ("outcome", "gain", "turns"):
        table.add_column(column, justify="right")
    for row in select_episodes(run, iteration=iteration, split=split, limit=LISTED):
        table.add_row(
            str(row["iteration"]),
            row["split"],
            Text(visible(row["episode_id"])),
            Text(visible(row["question"])),
            verdict(row),
            number(row["outcome"], "+.2f"),
            number(row["gain_total"]),
            str(row["turns"]),
        )
    console.print(table)
    console.print(
        "igpo show RUN EPISODE shows one, --best and --worst the extremes; igpo browse RUN pages through all",
        style="dim",
    )
