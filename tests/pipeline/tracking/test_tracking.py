"""MLflow through a real SQLite store: one run per run, no step twice, no step lost, nothing stops
training."""

import json
import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient
from rollout_log_samples import heldout, train_1, train_2

from envs import durable
from pipeline.tracking import MlflowTracker, TrackingSettings, delivery, spool
from pipeline.tracking.names import metrics_of, parameters_of
from pipeline.tracking.spool import TraceSpool
from pipeline.tracking.traces import SampledRollout, spans_of

CONFIG = {
    "lr": 1e-6,
    "preset": "igpo",
    "env_config": {"max_turns": 6, "world": {"hops": {1: 0.5}}},
    "seed": None,
}


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
    assert run.data.metrics == {
        "train/em": 0.25,
        "learner/kl": 0.5,
        "heldout/em_squad": 0.5,
        "progress/iteration": 1.0,
    }
    assert run.data.params == parameters_of(CONFIG)
    assert run.data.tags["igpo.run_id"] == "run-1"
    assert run.data.tags["igpo.checkpoints"] == str(run_dir / "checkpoints")
    assert run.data.tags["igpo.version"] == "0.1.0"
    assert run.data.tags["igpo.em"] == "0.500"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run-1"
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "igpo"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"  # runs and charts first
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    assert run.info.artifact_uri.startswith((run_dir.parent.parent / "mlartifacts").as_uri())


def test_one_request_per_iteration(run_dir, monkeypatch):
    tracker = track(run_dir)
    assert tracker.flush()
    calls = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient, "log_batch", lambda self, *a, **k: calls.append(k) or log_batch(self, *a, **k)
    )
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
    spooled = [
        json.loads(line)["iteration"]
        for line in (run_dir / "logs" / "metrics.jsonl").read_text().splitlines()
    ]
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
    monkeypatch.setattr(delivery, "wait_exponential", lambda max: lambda state: 0.01)
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
    assert f"what is left is in {run_dir / 'logs'}: igpo track {run_dir} sends it" in caplog.text


def test_a_store_that_was_silent_is_asked_at_once_when_the_run_ends(run_dir, monkeypatch):
    """The back-off of a long run is a minute, as long as the wait at its end."""
    monkeypatch.setattr(delivery, "wait_exponential", lambda max: lambda state: 60.0)
    attempts = []

    def answers_at_the_third(connection):
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise OSError("away")

    tracker = track(run_dir)
    tracker._delivery.put(answers_at_the_third)
    while not attempts:
        time.sleep(0.01)
    assert tracker.close(timeout=10.0) and len(attempts) == 3
    assert attempts[2] - attempts[0] < 8


def test_a_locked_store_is_one_sentence(run_dir):
    """MLflow's own log of it was 66 lines, with two tracebacks."""
    code = f"""
import sqlite3, time
from pipeline.logging import configure_logging
configure_logging(0)
from pipeline.tracking import MlflowTracker
holder = sqlite3.connect({str(run_dir.parent.parent / "mlflow.db")!r})
holder.execute("BEGIN EXCLUSIVE")
import mlflow.store.db.utils
mlflow.store.db.utils.MAX_RETRY_COUNT = 1
from sqlalchemy import event
from sqlalchemy.engine import Engine
event.listen(Engine, "connect", lambda connection, record: connection.execute("PRAGMA busy_timeout = 10"))
tracker = MlflowTracker({str(run_dir)!r}, name="igpo", run_id="run-1", config={{}})
tracker.log_iteration(1, {{"igpo": {{"em": 0.5}}}})
tracker.commit(1)
while tracker._delivery._silent_since is None:
    time.sleep(0.05)
tracker.close(timeout=0.5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert "database is locked" in said[0] and "Traceback" not in done.stderr, done.stderr
    assert len(said) <= 3, said


def traces_of(tracker):
    client, run = stored(tracker)
    found = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    return sorted((trace.info.tags["igpo.iteration"], trace.info.tags["igpo.episode_id"]) for trace in found)


def test_a_kill_between_checkpoint_and_commit_loses_no_trace(run_dir, monkeypatch):
    dead = track(run_dir)
    dead.log_rollouts(train_1())
    dead.log_iteration(1, result(0.1))  # the checkpoint of iteration 1 is on disk, and the process dies
    dead.log_rollouts(train_2())
    spool = run_dir / "logs" / "traces.jsonl"
    kept = spool.read_text()
    spool.write_text(kept + kept[:100])  # killed while it wrote
    resumed = track(run_dir, resumed_from_iteration=1)
    assert resumed.flush()
    assert [iteration for iteration, _ in traces_of(resumed)] == ["1", "1"]
    assert spool.read_text() == ""
    resumed.log_rollouts(train_2())
    resumed.commit(2)
    assert resumed.close()
    assert [iteration for iteration, _ in traces_of(resumed)] == ["1", "1", "2", "2"]
    assert spool.read_text() == ""
    dead.close(timeout=0.1)


def test_traces_wait_on_disk_for_a_server_that_is_away(run_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = track(run_dir)
    away.log_rollouts(train_1())
    away.commit(1)
    assert not away.close(timeout=0.2) and not away.close()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    back = track(run_dir, resumed_from_iteration=1)
    assert back.close() and len(traces_of(back)) == 2


def test_after_an_outage_the_waiting_traces_are_written_anew_a_few_times(tmp_path, monkeypatch):
    """64 iterations were kept while the server was away. Whenever a kill comes, what it left is what is not
    sent.
    """
    rewritten = []

    def write(path, text):
        rewritten.append(text.count("\n"))
        durable.write_text(path, text)

    path = tmp_path / "traces.jsonl"
    waiting = TraceSpool(path, None)
    waiting.add([{"id": f"tr-{k}", "iteration": k} for k in range(1, 65)])
    monkeypatch.setattr(spool, "write_text", write)
    for k in range(1, 65):
        waiting.sent(f"tr-{k}")
        waiting.tidy()
        (tmp_path / "killed").write_bytes(path.read_bytes() + b'{"sent": "tr-6')
        left = TraceSpool(tmp_path / "killed", 64).take(64)
        assert [trace["iteration"] for trace in left] == list(range(k + 1, 65))
        rewritten.pop()  # of the resumed run
    assert rewritten == [32, 16, 8, 4, 2, 1, 0] and path.read_text() == ""


def test_what_is_left_of_sent_traces_goes_at_the_end(run_dir):
    """Two of six are sent, which is less than half; the others have no checkpoint."""
    tracker = track(run_dir)
    for record in (train_1(), train_2(), heldout(3, q1_right=True, q2_right=True)):
        tracker.log_rollouts(record)
    tracker.commit(1)
    assert tracker.flush()
    spooled = run_dir / "logs" / "traces.jsonl"
    iterations = [json.loads(line).get("iteration") for line in spooled.read_text().splitlines()]
    assert iterations == [1, 1, 2, 2, 3, 3, None, None]
    tracker.close()
    assert [json.loads(line)["iteration"] for line in spooled.read_text().splitlines()] == [2, 2, 3, 3]


def test_what_the_store_refuses_is_said_and_the_rest_arrives(run_dir, caplog):
    tracker = track(run_dir)
    with caplog.at_level(logging.WARNING):
        tracker._delivery.put(lambda connection: connection.client.set_tag(connection.run_id, "", "no name"))
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
    igpo = {
        "em": 0.5,
        "seconds_learn": 2.0,
        "brand_new": 1,
        "kl": math.nan,
        "loss": None,
        "agent/reader/gain_mean": 0.5,
        "policy/reader/kl": 0.25,
    }
    assert metrics_of({"igpo": igpo, "evaluation": {"em_squad_hops_2": 0.1}}, 3) == {
        "progress/iteration": 3.0,
        "train/em": 0.5,
        "seconds/learn": 2.0,
        "other/brand_new": 1.0,
        "agent/reader/gain_mean": 0.5,
        "policy/reader/kl": 0.25,
        "heldout/em_squad_hops_2": 0.1,
    }


def test_the_local_store_lies_beside_all_runs(run_dir, monkeypatch):
    monkeypatch.chdir(run_dir.parent.parent)
    tracker = track(run_dir)
    tracker.close()
    assert tracker.tracking_uri == f"sqlite:///{run_dir.parent.parent / 'mlflow.db'}"
    command, _, advice = tracker.ui_command.partition("  # ")
    assert command == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert advice == "in it, choose Model training"


def test_commands_name_paths_with_blanks(tmp_path, empty_store, monkeypatch, caplog):
    """As a shell reads them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs").mkdir()
    (tmp_path / "my runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    server = "http://127.0.0.1:9/?a=1&b=2"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = track(tmp_path / "my runs" / "igpo" / "1")
    assert away.ui_command == f"open '{server}'"
    with caplog.at_level(logging.WARNING):
        assert not away.close(timeout=0.1)
    assert shlex.split(caplog.text.partition("igpo track ")[2])[0] == str(away.run_dir)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    here = track(tmp_path / "my runs" / "igpo" / "2")
    assert shlex.split(here.ui_command.partition("  #")[0])[-1] == "sqlite:///my runs/mlflow.db"
    here.close()


def test_mlflow_is_imported_late():

    code = "import sys, pipeline.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_evaluation_at_the_end_may_follow_its_iteration(run_dir):
    """Interrupted after iteration 1 had arrived, resumed only to evaluate; a third attempt does not send it
    again.
    """
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
    assert history(tracker, "train/em") == [(1, 0.25)] and history(tracker, "progress/iteration") == [
        (1, 1.0)
    ]


# Traces.


def test_spans_of_a_rollout_hold_turns_decisions_tools_and_credit():
    record = train_1()
    r4 = record.rollouts[3]
    r4.turns[0].seconds_generate = 1.0
    credit_T = [record.credit[r4.id, turn.index] for turn in r4.turns]
    spans = spans_of(SampledRollout("run-1", 1, "train", r4, credit_T, ended_ns=10_000_000_000))
    number = {span["span_id"]: position for position, span in enumerate(spans, 1)}
    shown = [(s["name"], number.get(s["parent_span_id"]), s["status"]["code"][12:]) for s in spans]
    assert shown == [
        ("rollout", None, "OK"),
        ("turn 0", 1, "OK"),
        ("searcher", 2, "OK"),
        ("search", 2, "ERROR"),
        ("turn 1", 1, "OK"),
        ("searcher", 5, "OK"),
    ]
    # 1 s of writing and 2 s in the tool, the end at 10 s.
    assert [(s["start_time_unix_nano"] / 1e9, s["end_time_unix_nano"] / 1e9) for s in spans[:4]] == [
        (7, 10), (7, 10), (7, 8), (8, 10),
    ]  # fmt: skip
    facts = {
        key: json.loads(value)
        for key, value in spans[1]["attributes"].items()
        if not key.startswith("mlflow.")
    }
    assert facts == {
        "action": "tool", "gold_hit": False, "belief_before": 0.1, "belief_after": 0.05, "gain": -1.0,
        "normalised_gain": -0.5, "advantage": -1.0, "logp_gap_mean": 1e-6,
    }  # fmt: skip
    assert spans[3]["status"]["message"] == "timeout"


def test_a_sample_of_rollouts_becomes_traces_of_the_run_and_iteration(run_dir):
    tracker = track(run_dir, settings=TrackingSettings(traces_per_iteration=2))
    for record in (train_1(), heldout(1, q1_right=True, q2_right=False), train_2()):
        tracker.log_rollouts(record)
    tracker.log_iteration(1, result(0.1))
    tracker.commit(1)
    assert tracker.flush()
    client, run = stored(tracker)
    traces = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    assert sorted(trace.info.tags["igpo.split"] for trace in traces) == [
        "heldout",
        "heldout",
        "train",
        "train",
    ]
    assert {trace.info.tags["igpo.iteration"] for trace in traces} == {"1"}, (
        "iteration 2 waits for its checkpoint"
    )
    (trace,) = [trace for trace in traces if trace.info.tags["igpo.episode_id"] == "eq1"]
    assert trace.info.request_metadata["mlflow.sourceRun"] == run.info.run_id
    assert [span.name for span in trace.data.spans] == ["rollout", "turn 0", "searcher"]
    assert trace.data.spans[0].inputs == {
        "question": "Where was the author of Foo born?",
        "golds": ["Rome", "Roma"],
    }
    worth = {one.name: one.value for one in trace.info.assessments}
    assert worth == {"outcome": 1.0, "em": 1.0, "f1": 1.0}
    train = next(trace for trace in traces if trace.info.tags["igpo.split"] == "train")
    assert {"belief_before", "gain", "advantage"} <= set(train.data.spans[1].attributes)
    for _ in range(2):  # As a retry after a failure would do.
        tracker.log_rollouts(train_1())
        tracker.commit(1)
    tracker.close()
    again = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
    assert len(again) == 4 and all(len(trace.info.assessments) == 3 for trace in again)


def test_the_run_is_titled_and_lists_its_data_sets(run_dir):
    corpus = {"name": "corpus world", "digest": "91f6", "source": "world", "context": "corpus"}
    tracker = track(run_dir, title="grpo lr=0.1", datasets=[corpus])
    tracker.close()
    _, run = stored(tracker)
    assert run.info.run_name == "grpo lr=0.1 run-1"
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("corpus world", "91f6")
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "corpus"}


def test_data_sets_are_added_to_a_run_without_any(run_dir):
    """As after a failure between making the run and listing them."""
    corpus = {"name": "corpus world", "digest": "91f6", "source": "world", "context": "corpus"}
    track(run_dir).close()
    for _ in range(2):
        tracker = track(run_dir, resumed_from_iteration=0, datasets=[corpus])
        tracker.close()
        assert [one.dataset.name for one in stored(tracker)[1].inputs.dataset_inputs] == ["corpus world"]


def test_this_machine_is_watched_unless_told_not_to(run_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    for wanted, name in ((True, "run-1"), (False, "run-2")):
        settings = TrackingSettings(system_metrics=wanted)
        tracker = track(run_dir.parent / name, run_id=name, settings=settings)
        assert tracker.flush()
        time.sleep(1.5)
        tracker.close()
        _, run = stored(tracker)
        assert ("system/cpu_utilization_percentage" in run.data.metrics) is wanted


# The model, trials, and what the log is told.


def test_the_model_is_registered_once_on_request(run_dir):
    folder = run_dir / "hf"
    (folder / "default_policy").mkdir(parents=True)
    (folder / "default_policy" / "config.json").write_text("{}")
    plain = track(run_dir)
    plain.register_model(folder)
    plain.close()
    client = MlflowClient(tracking_uri=plain.tracking_uri)
    assert client.search_registered_models() == []
    for resumed_from in (1, 1):
        tracker = track(
            run_dir, resumed_from_iteration=resumed_from, settings=TrackingSettings(register_model="searcher")
        )
        tracker.register_model(folder)
        tracker.close()
    (version,) = client.search_model_versions("name = 'searcher'")
    assert version.run_id == tracker.mlflow_run_id
    assert [a.path for a in client.list_artifacts(version.run_id, "model/default_policy")] == [
        "model/default_policy/config.json"
    ]
    assert version.source.endswith(f"{version.run_id}/artifacts/model")


def test_trials_of_a_grid_are_children_of_one_run(run_dir):
    for number in (1, 2):
        folder = run_dir.parent / f"trial-{number}"
        tracker = track(folder, run_id=f"trial-{number}", grid_id="20260101-ab")
        tracker.log_iteration(1, result(0.1))
        tracker.commit(1)
        tracker.close("finished" if number == 1 else "interrupted")
    client, run = stored(tracker)
    runs = client.search_runs([run.info.experiment_id])
    (parent,) = [r for r in runs if r.data.tags.get("igpo.grid_id") == "20260101-ab"]
    children = {r.info.run_name for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert children == {"trial-1", "trial-2"} and parent.info.run_name == "grid 20260101-ab"
    assert parent.info.status == "KILLED", "as its latest trial"


def test_the_run_id_is_told_as_soon_as_it_is_known(run_dir):
    told = []
    tracker = track(run_dir)
    tracker.when_known(told.append)
    assert tracker.flush()
    assert told == [tracker.mlflow_run_id] and told[0]
    tracker.close()


@pytest.mark.slow
def test_a_server_that_comes_up_later_gets_everything(run_dir, caplog, monkeypatch):
    """A real `mlflow server` on loopback that is down while the run trains, and comes up before it ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(delivery, "wait_exponential", lambda max: lambda state: 0.5)
    (run_dir / "config.yaml").write_text("lr: 1e-6\n")
    with caplog.at_level(logging.WARNING):
        tracker = track(run_dir)
        tracker.log_artifact(run_dir / "config.yaml")
        for record in (train_1(), train_2()):
            tracker.log_rollouts(record)
            tracker.log_iteration(record.iteration, result(0.1 * record.iteration))
            tracker.commit(record.iteration)
        assert not tracker.flush(timeout=1.0) and tracker.mlflow_run_id is None
        home = run_dir.parent.parent
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += [
            "--backend-store-uri",
            f"sqlite:///{home / 'mlflow.db'}",
            "--artifacts-destination",
            str(home / "kept"),
        ]
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        with (home / "server.log").open("w") as output:
            server = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        try:
            assert tracker.flush(timeout=180.0), (home / "server.log").read_text()
            tracker.close()
            client, run = stored(tracker)
            assert history(tracker, "train/em") == [(1, 0.1), (2, 0.2)] and run.info.status == "FINISHED"
            assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
            traces = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id)
            assert sorted(trace.info.tags["igpo.iteration"] for trace in traces) == ["1", "1", "2", "2"]
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
    assert sum("does not answer" in record.message for record in caplog.records) == 1
    assert "did not take" not in caplog.text
