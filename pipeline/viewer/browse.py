"""`igpo browse`: a Textual app over the episodes of a log: a list to filter and sort, the rollout under the
cursor, groups.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.run import Run
from pipeline.analysis.trajectories import load_group, load_trajectory
from pipeline.terminal import visible
from pipeline.viewer.episode_pages import COLUMNS, PAGE, EpisodeFilter, count_episodes, episode_page
from pipeline.viewer.group_screen import GroupScreen
from pipeline.viewer.render import number, render_trajectory, verdict

ANSWER_CELLS = 24


class Browser(App):
    """The episodes of an open log."""

    TITLE = "igpo browse"
    ENABLE_COMMAND_PALETTE = False
    # Here and not in the screen, whose own rules cannot depend on the class that its breakpoints set on
    # itself.
    CSS = """
    #filter { border: none; height: 1; padding: 0 1; background: $boost; }
    #status { height: auto; padding: 0 1; }
    #list { width: 4fr; }
    #reading { width: 3fr; border-left: solid $primary-muted; padding: 0 1; }
    .-narrow #panes { layout: vertical; }
    .-narrow #list, .-narrow #reading { width: 100%; height: 1fr; border: none; }
    """

    def __init__(self, run: Run):
        super().__init__()
        self._rollouts = run

    def get_default_screen(self) -> EpisodesScreen:
        return EpisodesScreen(self._rollouts)


class EpisodesScreen(Screen):
    """List and rollout, side by side or, on a narrow terminal, one above the other."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]
    BINDINGS = [
        Binding("slash", "focus_filter", "Filter"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("n", "page(1)", "Next"),
        Binding("p", "page(-1)", "Previous"),
        Binding("g", "group", "Compare group"),
        Binding("q", "app.quit", "Quit"),
        Binding("escape", "focus_list", show=False),
    ]

    def __init__(self, run: Run):
        super().__init__()
        self._rollouts = run
        self._wanted = EpisodeFilter()
        self._page = 0
        self._count = 0
        self._episodes: list[dict[str, Any]] = []

    def compose(self) -> ComposeResult:
        yield Input(
            placeholder="words of question or answer, or: where hops = 2 AND em_squad = 0", id="filter"
        )
        yield Static(id="status")
        with Horizontal(id="panes"):
            yield DataTable(id="list", cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="reading"):
                yield Static(id="rollout")
        yield Footer()

    def on_mount(self) -> None:
        self._fill()
        self.action_focus_list()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._want(replace(self._wanted, words=event.value))
        self.action_focus_list()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        if event.cursor_row < len(self._episodes):
            trajectory = load_trajectory(self._rollouts, self._episodes[event.cursor_row])
            self.query_one("#rollout", Static).update(render_trajectory(trajectory))
            self.query_one("#reading").scroll_home(animate=False)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        self._sort(COLUMNS[event.column_index])

    def action_focus_filter(self) -> None:
        self.query_one("#filter", Input).focus()

    def action_focus_list(self) -> None:
        self._list.focus()

    def action_sort(self) -> None:
        self._sort(COLUMNS[(COLUMNS.index(self._wanted.sort) + 1) % len(COLUMNS)])

    def action_reverse(self) -> None:
        self._sort(self._wanted.sort)

    def action_page(self, step: int) -> None:
        last = max(0, (self._count - 1) // PAGE)
        self._page = min(max(self._page + step, 0), last)
        self._fill()

    def action_group(self) -> None:
        if self._episodes:
            self.app.push_screen(
                GroupScreen(load_group(self._rollouts, self._episodes[self._list.cursor_row]))
            )

    @property
    def _list(self) -> DataTable:
        return self.query_one("#list", DataTable)

    def _sort(self, column: str) -> None:
        """By `column`, largest first; by the same column again the other way round."""
        descending = not self._wanted.descending if column == self._wanted.sort else True
        self._want(replace(self._wanted, sort=column, descending=descending))

    def _want(self, wanted: EpisodeFilter) -> None:
        """Show what `wanted` asks for; if the log cannot answer it, say why and keep what is shown."""
        before = self._wanted, self._page
        self._wanted, self._page = wanted, 0
        try:
            self._fill()
        except (AnalysisError, duckdb.Error) as error:
            self._wanted, self._page = before
            self._say(Text(visible(str(error)), style="red"))

    def _fill(self) -> None:
        self._count = count_episodes(self._rollouts, self._wanted)
        self._episodes = episode_page(self._rollouts, self._wanted, self._page)
        self._list.clear(columns=True)
        for column in COLUMNS:
            arrow = (" ▼" if self._wanted.descending else " ▲") if column == self._wanted.sort else ""
            self._list.add_column(f"{column.removesuffix('_total')}{arrow}")
        for row in self._episodes:
            self._list.add_row(*_cells(row))
        first = self._page * PAGE
        if self._episodes:
            self._say(
                Text(f"{first + 1}–{first + len(self._episodes)} of {self._count:,} episodes", style="dim")
            )
        else:
            self._say(Text("no episode fits", style="dim"))
            self.query_one("#rollout", Static).update("")

    def _say(self, words: Text) -> None:
        self.query_one("#status", Static).update(words)


def _cells(row: dict[str, Any]) -> list[Text]:
    answer = verdict(row)
    answer.truncate(ANSWER_CELLS, overflow="ellipsis")
    return [
        Text(str(row["iteration"]), justify="right"),
        Text(visible(row["split"])),
        Text(number(row["outcome"], "+.2f"), justify="right"),
        Text(number(row["gain_total"]), justify="right"),
        Text(str(row["turns"]), justify="right"),
        answer,
        Text(visible(row["question"]).replace("\n", " ")),
    ]
