"""MLflow through a real SQLite store: one run per run, no step twice, no step lost, nothing stops training."""

import json
import logging
import math
import sys
import time

import pytest
from mlflow import MlflowClient

from pipeline import tracking
from pipeline.tracking import MlflowTracker
from pipeline.tracking_names import metrics_of, parameters_of

CONFIG = {"lr": 1e-6, "preset": "igpo", "env_config": {"max_turns": 6, "world": {"hops": {1: 0.5}}}, "seed": None}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's tables, made once: it takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def run_dir(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    folder = tmp_path / "igpo" / "run-1"
    folder.mkdir(parents=True)
    return folder


def track(run_dir, **changes):
    return MlflowTracker(run_dir, **{"name": "igpo", "run_id": "run-1", "config": CONFIG} | changes)


def result(em, **more):
    return {"igpo": {"em": em, "kl": 0.5, **more}}


def stored(tracker):
    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    return client, client.get_run(tracker.mlflow_run_id)


def history(tracker, key):
    return [(m.step, m.value) for m in stored(tracker)[0].get_metric_history(tracker.mlflow_run_id, key)]


def test_a_run_leaves_metrics_parameters_tags_and_its_config(run_dir):
    (run_dir / "config.yaml").write_text("lr: 1e-6\n")
    tracker = track(run_dir, tags={"igpo.version": "0.1.0"})
    tracker.log_artifact(run_dir / "config.yaml")
    tracker.log_iteration(1, result(0.25) | {"evaluation": {"em_squad": 0.5}})
    tracker.commit(1)
    tracker.close()
    client, run = stored(tracker)
    assert run.data.metrics == {"train/em": 0.25, "learner/kl": 0.5, "heldout/em_squad": 0.5, "progress/iteration": 1.0}
    assert run.data.params == parameters_of(CONFIG)
    assert run.data.tags["igpo.run_id"] == "run-1"
    assert run.data.tags["igpo.rollouts"] == str(run_dir / "rollouts")
    assert run.data.tags["igpo.version"] == "0.1.0"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run-1"
    assert client.get_experiment(run.info.experiment_id).name == "igpo"
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    assert run.info.artifact_uri.startswith((run_dir.parent.parent / "mlartifacts").as_uri())


def test_one_request_per_iteration(run_dir, monkeypatch):
    tracker = track(run_dir)
    assert tracker.flush()
    calls = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda self, *a, **k: calls.append(k) or log_batch(self, *a, **k))
    tracker.log_iteration(1, result(0.1))
    tracker.commit(1)
    tracker.close()
    assert [len(call["metrics"]) for call in calls] == [3]


def test_points_wait_for_their_checkpoint(run_dir):
    tracker = track(run_dir)
    tracker.log_iteration(1, result(0.1))
    tracker.log_iteration(2, result(0.2))
    tracker.commit(1)
    assert tracker.flush()
    assert history(tracker, "train/em") == [(1, 0.1)]
    tracker.commit(2)
    assert tracker.flush()
    assert history(tracker, "train/em") == [(1, 0.1), (2, 0.2)]
    tracker.close("interrupted")
    assert stored(tracker)[1].info.status == "KILLED"


def test_a_resumed_run_logs_no_step_twice_and_loses_none(run_dir):
    dead = track(run_dir)
    for iteration in (1, 2, 3, 4):
        dead.log_iteration(iteration, result(iteration / 10))
    dead.commit(2)
    assert dead.flush()
    # Killed here: the checkpoint of iteration 3 is on disk, but `commit(3)` was never called.
    with (run_dir / "logs" / "metrics.jsonl").open("a") as spool:
        spool.write('{"iteration": 5, "met')

    tracker = track(run_dir, resumed_from_iteration=3, config=CONFIG | {"lr": 1e-5, "new": True})
    tracker.log_iteration(4, result(0.9))
    tracker.commit(4)
    tracker.close()
    assert tracker.mlflow_run_id == dead.mlflow_run_id
    assert history(tracker, "train/em") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.9)]
    run = stored(tracker)[1]
    assert run.data.params["lr"] == "1e-06"
    assert run.data.params["new"] == "true"
    assert run.data.tags["changed_after_3.lr"] == "1e-05"
    spooled = [json.loads(line)["iteration"] for line in (run_dir / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert spooled == [1, 2, 3, 4]


def test_steps_that_arrived_from_beyond_the_checkpoint_are_not_logged_again(run_dir, caplog):
    dead = track(run_dir)
    for iteration in (1, 2):
        dead.log_iteration(iteration, result(iteration / 10))
    dead.commit(2)
    assert dead.flush()
    with caplog.at_level(logging.WARNING):
        tracker = track(run_dir, resumed_from_iteration=1)  # The checkpoint of iteration 2 was lost.
        for iteration in (2, 3):
            tracker.log_iteration(iteration, result(0.9))
            tracker.commit(iteration)
        tracker.close()
    assert history(tracker, "train/em") == [(1, 0.1), (2, 0.2), (3, 0.9)]
    assert "MLflow already has iterations up to 2, this attempt resumed from 1" in caplog.text


def test_a_store_that_comes_back_gets_everything_and_the_failure_is_said_once(run_dir, caplog, monkeypatch):
    monkeypatch.setattr(tracking, "wait_exponential", lambda max: lambda state: 0.01)
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    store = run_dir.parent.parent / "mlflow.db"
    away = store.rename(store.with_suffix(".away"))
    store.symlink_to(away.parent)  # SQLite cannot open a folder.
    back = store.with_suffix(".back")
    back.symlink_to(away)
    with caplog.at_level(logging.WARNING):
        tracker = track(run_dir)
        for iteration in (1, 2):
            tracker.log_iteration(iteration, result(0.1))
            tracker.commit(iteration)
        assert not tracker.flush(timeout=0.3)
        back.replace(store)  # At one stroke: SQLite would make an empty file where there is none.
        assert tracker.flush()
        tracker.close()
    assert history(tracker, "train/em") == [(1, 0.1), (2, 0.1)]
    assert sum("does not answer" in record.message for record in caplog.records) == 1


def test_a_server_that_never_answers_holds_up_neither_training_nor_its_end(run_dir, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        tracker = track(run_dir)
        tracker.log_iteration(1, result(0.1))
        tracker.commit(1)
        tracker.close(timeout=1.0)
    assert time.monotonic() - start < 8
    assert tracker.mlflow_run_id is None
    assert tracker.ui_command == "open http://127.0.0.1:9"
    assert sum("does not answer" in record.message for record in caplog.records) == 1
    assert f"all metrics are in {run_dir / 'logs' / 'metrics.jsonl'}" in caplog.text


def test_what_the_store_refuses_is_said_and_the_rest_arrives(run_dir, caplog):
    tracker = track(run_dir)
    with caplog.at_level(logging.WARNING):
        tracker.set_tags({"": "no name"})
        tracker.log_iteration(1, result(0.1))
        tracker.commit(1)
        tracker.close()
    assert "did not take something" in caplog.text
    assert history(tracker, "train/em") == [(1, 0.1)]


def test_bad_use_is_an_error_at_once(run_dir):
    tracker = track(run_dir)
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.yaml"):
        tracker.log_artifact(run_dir / "nothing.yaml")
    tracker.close()
    tracker.close()


def test_a_damaged_spool_names_its_line(run_dir):
    (run_dir / "logs").mkdir()
    (run_dir / "logs" / "metrics.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        track(run_dir, resumed_from_iteration=1)


def test_parameters_are_flat_typed_and_short():
    config = CONFIG | {"on": True, "golds": ["a", "b"], "empty": {}, "long": "x" * 600, "odd[key]": 1}
    parameters = parameters_of(config)
    assert len(parameters.pop("long")) == 500
    assert parameters == {
        "lr": "1e-06",
        "preset": "igpo",
        "env_config.max_turns": "6",
        "env_config.world.hops.1": "0.5",
        "seed": "null",
        "on": "true",
        "golds": '["a", "b"]',
        "empty": "{}",
        "odd_key_": "1",
    }


def test_metric_names_are_curated_and_numbers_finite():
    igpo = {"em": 0.5, "seconds_learn": 2.0, "brand_new": 1, "kl": math.nan, "loss": None}
    assert metrics_of({"igpo": igpo, "evaluation": {"em_squad_hops_2": 0.1}}, 3) == {
        "progress/iteration": 3.0,
        "train/em": 0.5,
        "seconds/learn": 2.0,
        "other/brand_new": 1.0,
        "heldout/em_squad_hops_2": 0.1,
    }


def test_the_local_store_lies_beside_all_runs(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir.parent.parent)
    tracker = track(run_dir)
    tracker.close()
    assert tracker.tracking_uri == f"sqlite:///{run_dir.parent.parent / 'mlflow.db'}"
    assert tracker.ui_command == "mlflow ui --backend-store-uri sqlite:///mlflow.db"


def test_mlflow_is_imported_late():
    import subprocess

    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_evaluation_at_the_end_may_follow_its_iteration(run_dir):
    """Interrupted after iteration 1 had arrived, resumed only to evaluate; a third attempt does not send it again."""
    tracker = track(run_dir)
    tracker.log_iteration(1, result(0.25))
    tracker.commit(1)
    tracker.close("interrupted")
    for em in (0.5, 0.75):
        tracker = track(run_dir, resumed_from_iteration=1)
        tracker.log_iteration(1, {"evaluation": {"em_squad": em}})
        tracker.commit(1)
        tracker.close()
    assert history(tracker, "heldout/em_squad") == [(1, 0.5)]
    assert history(tracker, "train/em") == [(1, 0.25)] and history(tracker, "progress/iteration") == [(1, 1.0)]
