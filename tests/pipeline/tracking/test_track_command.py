"""`igpo track RUN`: what MLflow did not get of a run is sent once, with its status."""

import json

import pytest
from mlflow import MlflowClient
from rollout_log_samples import train_1, train_2, write_run

import pipeline.cli.igpo
from pipeline.run_directory.checkpoints import NOTE
from pipeline.run_directory.directory import RunDirectory
from pipeline.tracking import MlflowTracker


@pytest.fixture
def unsent(tmp_path, empty_store, monkeypatch):
    """A run of two iterations whose tracking server was away; yields (its directory, how to end it)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    keys = {"run": "IGPO", "config": {"lr": 1e-6, "preset": "igpo"}, "mlflow": {"traces_per_iteration": 2}}
    run = RunDirectory.create("runs", "demo", {"demo": keys}, run_id="1")
    write_run(run.path.parent, run_id="1")
    run.begin_attempt(None)
    tracker = MlflowTracker(run.path, name="demo", run_id="1", config=keys)
    for number, record in enumerate((train_1(), train_2()), 1):
        tracker.log_rollouts(record)
        tracker.log_iteration(number, {"igpo": {"em": number / 4}})
        tracker.commit(number)
    assert not tracker.close(timeout=0.1)
    (run.path / "results").mkdir()
    (run.path / "results" / "a.csv").write_text("x\n")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return run


def stored(run):
    client = MlflowClient(tracking_uri=f"sqlite:///{run.path.parents[1] / 'mlflow.db'}")
    [found] = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    em = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "train/em")]
    traces = client.search_traces(locations=[found.info.experiment_id], run_id=found.info.run_id)
    return found, em, len(traces), {item.path for item in client.list_artifacts(found.info.run_id)}


def test_a_finished_run(unsent, run):
    unsent.end_attempt("finished", 2)
    for _ in range(2):  # again: nothing changes
        code, said = run("track", "last", app=pipeline.cli.igpo.app)
        assert code == 0 and "has iteration 2 and all before it, as finished" in said
        found, em, traces, artifacts = stored(unsent)
        assert found.info.status == "FINISHED" and em == [(1, 0.25), (2, 0.5)] and traces == 4
        assert artifacts == {"config.yaml", "results"}
        assert unsent.metadata["mlflow_run_id"] == found.info.run_id


def test_a_run_that_died_is_sent_up_to_its_checkpoint(unsent, run):
    folder = unsent.checkpoints / "iteration_000001"
    folder.mkdir()
    (folder / NOTE).write_text(json.dumps({"schema_version": 1, "algorithm": "IGPO", "iteration": 1}))
    (unsent.checkpoints / "last").symlink_to(folder.name)
    code, said = run("track", unsent.path, app=pipeline.cli.igpo.app)
    assert code == 0 and "has iteration 1 and all before it, as failed" in said
    found, em, traces, _ = stored(unsent)
    assert found.info.status == "FAILED" and em == [(1, 0.25)] and traces == 2


def test_a_store_that_stays_away(unsent, run, monkeypatch, caplog):
    unsent.end_attempt("finished", 2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    code, said = run("track", "last", "--wait", "0.2", app=pipeline.cli.igpo.app)
    assert code == 1 and "did not take everything: give the same command again" in said
    assert "canary" not in said
    assert f"; metrics are kept in {unsent.logs / 'metrics.jsonl'} until it is back" in caplog.text


def test_a_run_that_is_being_trained(unsent, refused):
    with unsent.lock():
        assert "works in this run directory" in refused("track", "last", app=pipeline.cli.igpo.app)
