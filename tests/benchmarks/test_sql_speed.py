"""The benchmark of named queries on a log that it generates."""

from benchmarks.rollout_log.generated_log import write_generated_log
from benchmarks.rollout_log.sql_speed import measure
from pipeline.analysis import open_run
from pipeline.analysis import run as run_module


def test_a_named_query_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "connect", run_module.connect)  # which `measure` replaces
    write_generated_log(tmp_path / "rollouts", turns=2000, iterations=2)
    wall, cpu, peak, rows = measure(str(tmp_path), "gain_by_turn", 2)
    with open_run(tmp_path) as run:
        assert rows == len(run.named("gain_by_turn").fetchall()) == 5
        assert run.sql("SELECT current_setting('threads')").fetchall() == [(2,)]
    assert min(wall, cpu, peak) > 0
