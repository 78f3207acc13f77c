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
from pipeline.viewer.render import GOLD, golds_line, render_turns, verdict, worth

COLUMN_CELLS = 52
"""Least width of a rollout; more than fit are scrolled to."""


class GroupScreen(Screen):
    """`group` in columns, the best outcome first."""

    CSS = """
    #prompt { padding: 0 1; height: auto; }
    .rollout { border-left: solid $primary-muted; padding: 0 1; }
    """
    BINDINGS = [Binding("escape", "app.pop_screen", "Back"), Binding("q", "app.quit", "Quit")]

    def __init__(self, group: list[Trajectory]):
        super().__init__()
        self._group = sorted(group, key=lambda one: -(one.episode["outcome"] or 0.0))

    def compose(self) -> ComposeResult:
        episode = self._group[0].episode
        facts = f"  iteration {episode['iteration']}, {episode['split']}, {len(self._group)} rollouts"
        question = visible(episode["question"])
        yield Static(
            Text.assemble((question, "bold"), "  ", (golds_line(episode), GOLD), (facts, "dim")), id="prompt"
        )
        width = max(COLUMN_CELLS, self.app.size.width // len(self._group))
        with HorizontalScroll():
            for one in self._group:
                name = Text(visible(one.episode["episode_id"]), style="dim")
                with VerticalScroll(classes="rollout") as column:
                    column.styles.width = width
                    yield Static(
                        Group(name, verdict(one.episode), Text(worth(one.episode)), render_turns(one))
                    )
        yield Footer()
