"""An attempt from opening to the last artifact: log, MLflow run and metadata agree, and results never undo a
training.
"""

from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from rollout_log_samples import records

from pipeline.analysis import named_queries, open_run
from pipeline.run_directory.directory import RunDirectory
from pipeline.tracking import MlflowTracker, TrackingSettings
from pipeline.training import attempt as attempt_module
from pipeline.training.attempt import datasets_of, open_attempt, send_rest
from pipeline.training.plan import grid_ids

CONFIG: Any = SimpleNamespace(seed=0, model_path="tiny", preset="igpo")
IDENTITY = {
    "corpus": {"source": "world", "content_hash": "ab12"},
    "questions": [{"split": "train", "source": "mine.jsonl", "content_hash": "cd34", "questions": 8}],
    "retriever": {"kind": "bm25", "top_k": 2},
}


@pytest.fixture
def run(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return RunDirectory.create(tmp_path / "runs", "demo", {"demo": {"config": {"lr": 1e-3}}})


def attempt_of(run, *, resumed_from=None, how="finished", written=None, **settings):
    with open_attempt(
        run, run.resolved, CONFIG, resumed_from, IDENTITY, TrackingSettings(**settings)
    ) as attempt:
        for record in records() if written is None else written:
            attempt.log.write(record, {"kl": 0.5})
            attempt.tracker.log_rollouts(record)
        attempt.tracker.commit(2)
        assert attempt.tracker.flush()
        attempt.how = how
    return attempt


def test_a_finished_attempt_leaves_results_report_model_and_traces(run):
    folder = run.checkpoints / "iteration_000002"
    (folder / "hf" / "default_policy").mkdir(parents=True)
    (folder / "hf" / "default_policy" / "config.json").write_text("{}")
    (folder / "igpo_checkpoint.json").write_text("{}")
    (run.checkpoints / "last").symlink_to(folder.name)
    attempt = attempt_of(run, register_model="searcher")

    names = {f"{name}.csv" for name in named_queries()} | {"report.html"}
    assert {path.name for path in (run.path / "results").iterdir()} == names
    assert (run.path / "results" / "credit_auroc.csv").read_text().splitlines()[
        1
    ] == f"{run.run_id},3,4,0.75,1.0,-0.125,1.125"
    client, run_id = MlflowClient(tracking_uri=attempt.tracker.tracking_uri), attempt.tracker.mlflow_run_id
    assert {artifact.path for artifact in client.list_artifacts(run_id)} == {
        "config.yaml",
        "results",
        "model",
    }
    assert {artifact.path for artifact in client.list_artifacts(run_id, "results")} == {
        f"results/{name}" for name in names
    }
    experiment = client.get_run(run_id).info.experiment_id
    assert len(client.search_traces(locations=[experiment], run_id=run_id)) == 8, (
        "two per iteration and split"
    )
    assert [version.run_id for version in client.search_model_versions("name = 'searcher'")] == [run_id]
    with open_run(run.path) as log:
        assert log.sql("SELECT status, mlflow_run_id FROM runs").fetchall() == [("finished", run_id)]
        searched = log.sql(
            "SELECT corpus->>'$.content_hash', retriever->>'$.kind', retriever->>'$.top_k' FROM runs"
        ).fetchall()
        assert searched == [("ab12", "bm25", "2")]
        assert log.sql("SELECT DISTINCT retriever->>'$.kind' FROM episodes").fetchall() == [("bm25",)]
    assert run.metadata["mlflow_run_id"] == run_id and run.metadata["status"] == "finished"


def test_a_resumed_attempt_knows_its_mlflow_run_from_the_start(run):
    first = attempt_of(run, how="interrupted")
    second = attempt_of(run, resumed_from=2, written=[])
    with open_run(run.path) as log:
        rows = log.sql("SELECT attempt, status, mlflow_run_id FROM runs ORDER BY ALL").fetchall()
    assert rows == [
        (1, "interrupted", first.tracker.mlflow_run_id),
        (2, "finished", first.tracker.mlflow_run_id),
    ]
    assert second.tracker.mlflow_run_id == first.tracker.mlflow_run_id


def test_a_failed_attempt_writes_no_results(run):
    with pytest.raises(ZeroDivisionError), open_attempt(run, run.resolved, CONFIG, None, IDENTITY) as attempt:
        attempt.log.write(records()[0], {})
        1 / 0  # noqa: B018
    assert not (run.path / "results").exists() and run.metadata["status"] == "failed"


def test_an_attempt_that_was_stopped_before_its_first_iteration_ends_without_a_traceback(run, caplog):
    attempt_of(run, how="interrupted", written=[])
    assert (
        "there are no results yet: " in caplog.text
        and "has not finished its first iteration yet" in caplog.text
    )
    assert "Traceback" not in caplog.text


def test_results_that_cannot_be_written_are_said_and_leave_the_run_finished(run, monkeypatch, caplog):
    def fail(folder):
        raise OSError("no space left")

    monkeypatch.setattr(attempt_module, "write_results", fail)
    attempt = attempt_of(run)
    assert "the results of" in caplog.text and "no space left" in caplog.text
    assert run.metadata["status"] == "finished"
    client = MlflowClient(tracking_uri=attempt.tracker.tracking_uri)
    assert client.get_run(attempt.tracker.mlflow_run_id).info.status == "FINISHED"


def test_trials_of_one_name_share_a_grid_and_keep_it_on_resume(run):
    def plan(name, resumed=None):
        return SimpleNamespace(experiment=SimpleNamespace(name=name), run=resumed)

    run.note(grid_id="20260101-ab")
    assert grid_ids([plan("alone")]) == {}
    fresh = grid_ids([plan("a"), plan("a"), plan("b")])
    assert list(fresh) == ["a"] and fresh["a"]
    assert grid_ids([plan("a", run), plan("a")]) == {"a": "20260101-ab"}


def test_each_source_of_documents_and_questions_is_a_data_set_of_its_own():
    questions = [
        {"split": "train", "source": "a.jsonl", "content_hash": "a" * 64, "questions": 8},
        {"split": "train", "source": "b.jsonl", "content_hash": "b" * 64, "questions": 5},
        {"split": "heldout", "source": "dev.jsonl", "content_hash": "c" * 64, "questions": 2},
    ]
    corpus = {"source": "passages.jsonl", "content_hash": "d" * 64, "documents": 20}

    def named(identity):
        return [tuple(facts.values()) for facts in datasets_of(identity)]

    asked = [
        ("train questions of a.jsonl", "a" * 36, "a.jsonl", '{"questions": 8}', "train"),
        ("train questions of b.jsonl", "b" * 36, "b.jsonl", '{"questions": 5}', "train"),
        ("heldout questions of dev.jsonl", "c" * 36, "dev.jsonl", '{"questions": 2}', "heldout"),
    ]
    searched = ("corpus passages.jsonl", "d" * 36, "passages.jsonl", '{"documents": 20}', "corpus")
    assert named({"corpus": corpus, "questions": questions}) == [searched, *asked]
    assert named({"corpus": {"source": "remote"}, "questions": questions}) == asked


def test_the_store_lists_the_data_sets_of_the_run(run):
    attempt = attempt_of(run)
    client = MlflowClient(tracking_uri=attempt.tracker.tracking_uri)
    listed = client.get_run(attempt.tracker.mlflow_run_id).inputs.dataset_inputs
    assert {(one.dataset.name, one.dataset.digest, one.dataset.source) for one in listed} == {
        ("corpus world", "ab12", "world"),
        ("train questions of mine.jsonl", "cd34", "mine.jsonl"),
    }


def test_what_is_sent_later_is_what_training_would_have_sent(tmp_path, run, monkeypatch):
    """Two runs of one experiment; the server of the second was away."""
    keys = {"config": {"lr": 1e-3, "preset": "igpo"}, "mlflow": {"system_metrics": True}}
    facts = {"label": "lr=0.001", "git_commit": "ab12"}
    stored, watched = [], []
    monkeypatch.setattr(MlflowTracker, "_monitored", lambda tracker, run_id: watched.append(run_id))
    for run_id in ("here", "away"):
        made = RunDirectory.create(tmp_path / "runs", "demo", {"demo": keys}, facts, run_id=run_id)
        with monkeypatch.context() as patch:
            if run_id == "away":
                patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
                patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
                patch.setattr(MlflowTracker, "close", partialmethod(MlflowTracker.close, timeout=0.1))
            attempt_settings = TrackingSettings(system_metrics=False)
            with open_attempt(made, made.resolved, CONFIG, None, IDENTITY, attempt_settings) as attempt:
                attempt.log.write(records()[0], {})
                attempt.how = "finished"
        if run_id == "away":
            assert attempt.tracker.mlflow_run_id is None
            assert send_rest(made, 60.0).everything
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
        stored.append(client.get_run(made.metadata["mlflow_run_id"]))
        assert stored[-1].info.run_name == f"igpo lr=0.001 {run_id}"
        assert stored[-1].data.tags["igpo.config_hash"] == made.metadata["config_hash"]
    assert not watched, "what sends later is not the machine that trained"
    here, away = (
        (
            {key: value.replace(run.info.run_name.split()[-1], "ID") for key, value in run.data.tags.items()},
            {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs},
        )
        for run in stored
    )
    assert away == here
    tags, datasets = away
    assert datasets == {("corpus world", "ab12"), ("train questions of mine.jsonl", "cd34")}
    assert (tags["igpo.preset"], tags["igpo.label"], tags["igpo.git_commit"]) == ("igpo", "lr=0.001", "ab12")
