"""`igpo show`: chooses a rollout and prints it."""

from __future__ import annotations

from rich.text import Text

from envs.errors import InputError
from pipeline.analysis.run import Run
from pipeline.analysis.trajectories import load_trajectory, select_episodes
from pipeline.fitted_table import Column, print_fitted
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
    found = select_episodes(run, iteration=iteration, split=split, limit=LISTED)
    columns = (
        Column("episode", [Text(visible(row["episode_id"])) for row in found]),
        Column("question", [Text(visible(row["question"])) for row in found]),
        Column("answer", [verdict(row) for row in found]),
        Column("outcome", [Text(number(row["outcome"], "+.2f")) for row in found], is_number=True),
        Column("gain", [Text(number(row["gain_total"])) for row in found], is_number=True),
        Column("turns", [Text(str(row["turns"])) for row in found], is_number=True),
        Column("iteration", [Text(str(row["iteration"])) for row in found], is_number=True),
        Column("split", [Text(row["split"]) for row in found]),
    )
    print_fitted(console, columns)
    console.print(
        "igpo show RUN EPISODE shows one, --best and --worst the extremes; igpo browse RUN pages through all",
        style="dim",
    )
