"""The rollouts of one prompt side by side: the same question, and where they differ."""

from __future__ import annotations

from rich.console import Group
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import HorizontalScroll, VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from pipeline.analysis.trajectories import Trajectory
from pipeline.terminal import visible
from pipeline.viewer.pieces import GOLD
from pipeline.viewer.render import golds_line, render_turns, verdict, worth

COLUMN_CELLS = 52
"""Least width of a rollout; more than fit are scrolled to."""


class GroupScreen(Screen):
    """`group` in columns, the best outcome first. Rollouts that were written alike share a column."""

    CSS = """
    #prompt { padding: 0 1; height: auto; }
    .rollout { border-left: solid $primary-muted; padding: 0 1; }
    """
    BINDINGS = [Binding("escape", "app.pop_screen", "Back"), Binding("q", "app.quit", "Quit")]

    def __init__(self, group: list[Trajectory]):
        super().__init__()
        self._alike = alike(sorted(group, key=lambda one: -(one.episode["outcome"] or 0.0)))
        self._rollouts = len(group)

    def compose(self) -> ComposeResult:
        episode = self._alike[0][0].episode
        different = "" if len(self._alike) == self._rollouts else f", {len(self._alike)} of them different"
        facts = (
            f"  iteration {episode['iteration']}, {episode['split']}, {self._rollouts} rollouts{different}"
        )
        question = visible(episode["question"])
        yield Static(
            Text.assemble((question, "bold"), "  ", (golds_line(episode), GOLD), (facts, "dim")), id="prompt"
        )
        width = max(COLUMN_CELLS, self.app.size.width // len(self._alike))
        with HorizontalScroll():
            for one, *others in self._alike:
                name = Text(visible(one.episode["episode_id"]), style="dim")
                if others:
                    ids = ", ".join(visible(other.episode["episode_id"]) for other in others)
                    name.append(f"\nand {len(others)} written alike: {ids}")
                with VerticalScroll(classes="rollout") as column:
                    column.styles.width = width
                    yield Static(
                        Group(name, verdict(one.episode), Text(worth(one.episode)), render_turns(one))
                    )
        yield Footer()


def alike(group: list[Trajectory]) -> list[list[Trajectory]]:
    """Puts rollouts whose turns have the same texts together, in the order of their first ones."""
    found: dict[tuple, list[Trajectory]] = {}
    for one in group:
        texts = tuple((turn["decision_text"], turn["observation_text"]) for turn in one.turns_T)
        found.setdefault((one.episode["outcome"], texts), []).append(one)
    return list(found.values())
