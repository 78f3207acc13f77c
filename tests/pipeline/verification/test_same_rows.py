"""Two logs are compared value by value: what is equal, what differs first, and what does not count."""

import dataclasses

import pytest
from rollout_log_samples import records, write_run

from pipeline.analysis import open_run
from pipeline.verification.same_rows import Difference, compare

PARTS = [(1, "train"), (1, "heldout"), (2, "train"), (2, "heldout")]


def compared(tmp_path, change=lambda written: None, parts=PARTS):
    """The sample log against a copy of it that `change` changed."""
    written = records()
    change(written)
    runs = [write_run(tmp_path, "before"), write_run(tmp_path, "now", written)]
    with open_run(runs[0]) as before, open_run(runs[1]) as now:
        return compare(before, now, parts)


def test_equal_logs(tmp_path):
    found = compared(tmp_path)
    assert found.is_equal and found.first is None
    # Turns: 3 + 3 + 2 + 2 and 2 + 1 of training, 2 and 2 of evaluation. One metric for each of 4 parts.
    assert found.values["episodes"] % 10 == 0 and found.values["turns"] % 17 == 0
    assert found.values["metrics"] == 4 * 2  # its name and its value
    assert found.values["tokens"] == 0


def test_time_run_and_order_do_not_count(tmp_path):
    def change(written):
        train = written[0]
        train.seconds = {"generate": 9.0}
        train.rollouts.reverse()
        for rollout in train.rollouts:
            rollout.seconds = 99.0
            for turn in rollout.turns:
                turn.seconds_tool = turn.seconds_score = 99.0

    assert compared(tmp_path, change).is_equal


def test_the_first_difference_is_where_it_begins(tmp_path):
    """A text that differs comes before the credit that follows from it."""

    def change(written):
        train = written[0]
        train.credit["r1", 0] = dataclasses.replace(train.credit["r1", 0], advantage=0.75)
        turn = train.rollouts[0].turns[1]
        turn.decision_text = "<search>John birthplace</search>"
        train.groups[0].outcome_mean = 0.25

    found = compared(tmp_path, change)
    assert found.differ == dict(found.differ, turns=2, groups=1, episodes=0, metrics=0)
    assert (found.first.table, found.first.row, found.first.column) == ("turns", ("r1", 0), "advantage")
    assert str(found.first) == (
        "iteration 1 (train), turns, episode_id r1, turn_index 0, advantage: 0.5, now 0.75"
    )


def test_one_bit_is_a_difference(tmp_path):
    def change(written):
        credit = written[0].credit
        credit["r2", 1] = dataclasses.replace(credit["r2", 1], gain=0.5 + 2**-53)

    found = compared(tmp_path, change)
    assert found.differ["turns"] == 1 and found.first.column == "gain"
    assert compared(tmp_path / "b", change, [(2, "train")]).is_equal


def test_nan_is_equal_to_itself(tmp_path):
    def not_a_number(written):
        credit = written[0].credit
        credit["r2", 1] = dataclasses.replace(credit["r2", 1], gain=float("nan"))

    written = records()
    not_a_number(written)
    runs = [write_run(tmp_path, name, written) for name in ("before", "now")]
    with open_run(runs[0]) as before, open_run(runs[1]) as now:
        assert compare(before, now, PARTS).is_equal


@pytest.mark.parametrize("is_before", [True, False])
def test_a_row_that_one_log_lacks(tmp_path, is_before):
    less = records()
    less[0].rollouts[0].turns[1].tool_calls.clear()
    runs = [write_run(tmp_path, "whole"), write_run(tmp_path, "less", less)]
    with open_run(runs[not is_before]) as before, open_run(runs[is_before]) as now:
        found = compare(before, now, [(1, "train")])
    assert found.differ["tool_calls"] == 1 and found.first.table == "turns", "it says how many calls it made"


def test_a_row_that_is_there_twice(tmp_path):
    found = compared(tmp_path, lambda written: written[0].rollouts.append(written[0].rollouts[0]))
    assert found.differ["episodes"] == 1 and found.differ["turns"] == len(records()[0].rollouts[0].turns)
    assert str(found.first).endswith("episode_id r1, turn_index 0: the row is there 1 times, now 2")


def test_a_missing_row_in_words():
    row = Difference(3, "train", "tool_calls", ("r1", 1, 0), "", True, False)
    where = "iteration 3 (train), tool_calls, episode_id r1, turn_index 1, call_index 0"
    assert str(row) == f"{where}: only the first log has the row"
    assert (
        str(dataclasses.replace(row, before=False, now=True)) == f"{where}: only the second log has the row"
    )
