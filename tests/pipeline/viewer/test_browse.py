"""`igpo browse`, driven by keys without a terminal. Screens are compared with the text files in `snapshots/`.

After a wanted change: UPDATE_SNAPSHOTS=1 pytest tests/pipeline/viewer/test_browse.py, then read `git diff`.
"""

import asyncio
import os
import re
from html import unescape
from pathlib import Path

import pytest
from rollout_log_samples import Q1, answer, rollout, write_run
from textual.widgets import DataTable, Input, Static

from algorithms.igpo.iteration_record import IterationRecord
from pipeline.analysis import AnalysisError, open_run
from pipeline.analysis.trajectories import Trajectory
from pipeline.viewer.browse import Browser
from pipeline.viewer.episode_pages import PAGE, EpisodeFilter, count_episodes, episode_page
from pipeline.viewer.group_screen import GroupScreen, alike

SNAPSHOTS = Path(__file__).parent / "snapshots"
CELL_WIDTH = 12.2
"""Width of a character in Textual's SVG."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with open_run(write_run(tmp_path_factory.mktemp("runs") / "toy")) as opened:
        yield opened


def drive(run, steps, size=(132, 30)):
    """Runs the app and `await steps(app, pilot)` in it; returns what that returns."""

    async def session():
        app = Browser(run)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            return await steps(app, pilot)

    return asyncio.run(session())


def screen_text(app):
    """What the terminal shows, as lines: the text of Textual's SVG at its places."""
    lines = {}
    pattern = r'<text [^>]*?x="([\d.]+)"[^>]*?clip-path="url\(#[^)]*-line-(\d+)\)"[^>]*>([^<]*)</text>'
    for x, line, text in re.findall(pattern, app.export_screenshot()):
        at, text = round(float(x) / CELL_WIDTH), unescape(text).replace("\xa0", " ")
        before = lines.get(int(line), "").ljust(at)
        lines[int(line)] = before[:at] + text + before[at + len(text) :]
    return "\n".join(lines.get(i, "").rstrip() for i in range(max(lines) + 1)) + "\n"


def assert_matches_snapshot(app, name):
    path, shown = SNAPSHOTS / f"{name}.txt", screen_text(app)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown)
    assert shown == path.read_text()


async def type_filter(pilot, words):
    await pilot.press("slash")
    pilot.app.screen.query_one("#filter", Input).value = words
    await pilot.press("enter")
    await pilot.pause()


def listed(app):
    table = app.screen.query_one("#list", DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


def status(app):
    return str(app.screen.query_one("#status", Static).render())


@pytest.mark.parametrize(("name", "size"), [("browse_wide", (132, 30)), ("browse_narrow", (80, 30))])
def test_list_and_rollout(run, name, size):
    async def steps(app, pilot):
        await pilot.press("down", "down", "down", "down")
        await pilot.pause()
        assert_matches_snapshot(app, name)

    drive(run, steps, size)


def test_the_rollouts_of_a_group_side_by_side(run):
    async def steps(app, pilot):
        await type_filter(pilot, "paris")
        await pilot.press("g")
        await pilot.pause()
        assert_matches_snapshot(app, "browse_group")
        await pilot.press("escape")
        assert not isinstance(app.screen, GroupScreen)

    drive(run, steps)


def test_filter_by_words_and_by_sql(run):
    async def steps(app, pilot):
        await type_filter(pilot, "PARIS")
        assert [row[5] for row in listed(app)] == ["✗ wrong  Paris"]
        await type_filter(pilot, "where gain_total > 0.5")
        assert [row[3] for row in listed(app)] == ["+2.000", "+1.000"]
        assert status(app) == "1–2 of 2 episodes"
        await type_filter(pilot, "where gain_total > 100")
        assert listed(app) == [] and status(app) == "no episode fits"
        await pilot.press("g", "n", "s")  # nothing to compare, no page to turn
        assert listed(app) == []

    drive(run, steps)


def test_a_filter_that_cannot_be_answered_says_why_and_changes_nothing(run):
    async def steps(app, pilot):
        await type_filter(pilot, "paris")
        for words, reason in (
            ("where gian_total > 0", "there is no column gian_total; did you mean gain_total (in episodes)?"),
            ("where true); DROP TABLE turns; --", "one statement at a time"),
            ("where question::INT > 0", "Could not convert string"),
        ):
            await type_filter(pilot, words)
            assert reason in status(app)
            assert [row[5] for row in listed(app)] == ["✗ wrong  Paris"]
        await pilot.press("s")
        assert status(app) == "1–1 of 1 episodes"

    drive(run, steps)


def test_sorting_by_key_and_by_heading(run):
    async def steps(app, pilot):
        await type_filter(pilot, "where split = 'train'")
        await pilot.press("s", "s")  # from iteration to split to outcome
        assert [row[2] for row in listed(app)] == ["+1.00", "+0.00", "+0.00", "+0.00", "-1.00", "-1.00"]
        await pilot.press("r")
        assert [row[2] for row in listed(app)] == ["-1.00", "-1.00", "+0.00", "+0.00", "+0.00", "+1.00"]
        table = app.screen.query_one("#list", DataTable)
        table.post_message(
            DataTable.HeaderSelected(table, list(table.columns)[3], 3, table.ordered_columns[3].label)
        )
        await pilot.pause()
        assert [row[3] for row in listed(app)] == ["+2.000", "+1.000", "+0.500", "+0.000", "-1.000", "–"]

    drive(run, steps)


def test_pages(tmp_path):
    many = [rollout(f"r{i:03}", "g", Q1, [answer(0, "x")], text="x") for i in range(PAGE + 5)]

    async def steps(app, pilot):
        assert status(app) == f"1–{PAGE} of {PAGE + 5} episodes"
        await pilot.press("n", "n")
        assert status(app) == f"{PAGE + 1}–{PAGE + 5} of {PAGE + 5} episodes"
        await pilot.press("p", "p")
        assert len(listed(app)) == PAGE

    with open_run(write_run(tmp_path, written=[IterationRecord(1, "train", 0, many)])) as opened:
        drive(opened, steps)
        second = episode_page(opened, EpisodeFilter(), 1)
    assert [row["episode_id"] for row in second] == [f"r{i:03}" for i in range(PAGE, PAGE + 5)]


def test_words_are_taken_literally(run):
    assert count_episodes(run, EpisodeFilter("it's 100%_")) == 0
    assert count_episodes(run, EpisodeFilter("  ")) == 10
    with pytest.raises(AnalysisError, match="there is no column nonsense"):
        count_episodes(run, EpisodeFilter("WHERE nonsense"))


def test_rollouts_that_were_written_alike_share_a_column():
    def one(name, outcome, *texts):
        turns = [{"decision_text": text, "observation_text": "seen"} for text in texts]
        return Trajectory({"episode_id": name, "outcome": outcome}, turns)

    group = [one("a", 1.0, "x", "y"), one("b", 1.0, "x", "y"), one("c", 1.0, "x"), one("d", 0.0, "x", "y")]
    assert [[r.episode["episode_id"] for r in same] for same in alike(group)] == [["a", "b"], ["c"], ["d"]]
