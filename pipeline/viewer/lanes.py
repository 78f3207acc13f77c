"""The turns of several agents in lanes: a column per agent, time downwards, belief after each turn."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.analysis.trajectories import Trajectory
from pipeline.terminal import visible
from pipeline.viewer.pieces import belief_bar, with_golds

BAR_CELLS = 12


def render_lanes(trajectory: Trajectory) -> Table:
    """One line per turn: what its agent said, in the agent's column, and belief after it.

    An arrow points to the lane of the agent that reads what came of the turn; without one, its writer does.
    Gold answers are marked.
    """
    lane_of = {agent: lane for lane, agent in enumerate(trajectory.agents)}
    lanes = Table.grid(padding=(0, 2), expand=True)
    lanes.add_column(justify="right", style="dim", no_wrap=True)
    for _ in lane_of:
        lanes.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    lanes.add_column(no_wrap=True, min_width=BAR_CELLS + 6)
    lanes.add_row(
        "turn", *(Text(visible(agent), style="bold cyan") for agent in lane_of), Text("belief", "dim")
    )
    for turn, listener in zip(trajectory.turns_T, trajectory.listeners_T, strict=True):
        cells = [Text() for _ in lane_of]
        lane = lane_of[turn["agent"]]
        step = 0 if listener is None else lane_of[listener] - lane
        cells[lane] = _said(turn, step, trajectory.episode["golds"])
        lanes.add_row(str(turn["turn_index"]), *cells, _belief(turn))
    return lanes


def _said(turn: dict[str, Any], step: int, golds: list[str]) -> Text:
    """What the turn said; `step`: how many lanes to the right (below 0: to the left) it is read."""
    arrow = "→ " if step > 0 else "← " if step < 0 else ""
    said = visible((turn["query"] or turn["answer"] or turn["decision_text"]).strip()).replace("\n", " ")
    text = with_golds(said, golds)
    text.style = "bold" if turn["answer"] else "yellow" if turn["parse_error"] else ""
    return Text.assemble(arrow, text, (" ●", "green") if turn["gold_hit"] else "")


def _belief(turn: dict[str, Any]) -> Text:
    if turn["gain"] is None:
        return Text()
    bar = belief_bar(turn["belief_before"], turn["belief_after"], BAR_CELLS)
    return bar.append(f" {turn['belief_after']:.3f}")
