"""`igpo profile` on a log written by hand."""

import pytest
from rollout_log_samples import heldout, train_1, train_2, write_run
from typer.testing import CliRunner

from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.profile import profile
from pipeline.analysis.run import open_run
from pipeline.cli.igpo import app


def logged_twice():
    first, second = train_1(), train_2()
    first.seconds["log"], second.seconds["log"] = 0.0, 0.5
    return [first, second]


def test_seconds_by_hand(tmp_path):
    with open_run(write_run(tmp_path, written=logged_twice())) as run:
        found = profile(run)
    # The second iteration: 1 s each of generating and learning in 2.5 s, and 0.5 s in which the first was
    # logged.
    assert found.iterations == [1, 2]
    assert {p: s for p, s in found.seconds[1].items() if s} == {
        "generate": 1,
        "learn": 1,
        "log": 0.5,
        "other": 0.5,
        "total": 3,
    }
    assert found.means["generate"] == 2 and found.means["total"] == 3.75 and found.largest == "generate"
    assert not found.overlapped and found.peak_gib == {}


def test_an_iteration_that_stopped_the_run_has_no_seconds(tmp_path):
    stopped = train_2()
    stopped.iteration, stopped.seconds = 3, {}
    with open_run(write_run(tmp_path, written=[*logged_twice(), stopped])) as run:
        assert profile(run).iterations == [1, 2]


def test_the_chart_names_the_largest_phase(tmp_path):
    folder = write_run(tmp_path, written=logged_twice())
    result = CliRunner().invoke(app, ["profile", str(folder)])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    # 60 cells are the longest iteration: 3 s of generating, 1 of learning and 0.5 of no phase.
    assert lines[0].strip().startswith("1 " + "█" * 60) and "4.50 s" in lines[0]
    assert lines[1].count("█") == 40 and "3.00 s" in lines[1]
    assert "largest: generate (the engine writes turns), 2.00 of 3.75 s per iteration (53%)" in result.stdout


def test_many_iterations_share_bars(tmp_path):
    records = [train_2() for _ in range(45)]
    for k, record in enumerate(records):
        record.iteration = k + 1
    result = CliRunner().invoke(app, ["profile", str(write_run(tmp_path, written=records))])
    bars = [line for line in result.stdout.splitlines() if line.count("█") > 1]
    assert len(bars) == 15 and bars[0].split()[0] == "1-3" and bars[-1].split()[0] == "43-45"


def test_a_run_without_training_is_refused(tmp_path):
    folder = write_run(tmp_path, written=[heldout(0, q1_right=True, q2_right=True)])
    with open_run(folder) as run, pytest.raises(AnalysisError, match="no training iteration yet"):
        profile(run)
