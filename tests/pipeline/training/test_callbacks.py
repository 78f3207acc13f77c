"""The log of an algorithm that Python or Tune drives: the same rows as the command's, once each."""

import json
import logging
import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from rollout_log_samples import heldout, train_1, train_2
from tiny_policy import write_policy

from algorithms.igpo.algorithm import IGPO
from algorithms.igpo.config import IGPOConfig
from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.callbacks import log_to

ROWS = "SELECT attempt, iteration, split, count(*) FROM episodes GROUP BY ALL ORDER BY ALL"


@pytest.fixture
def runs(tmp_path, empty_store, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return tmp_path / "runs"


class StubAlgorithm:
    """Calls the hooks as `IGPO` does; `train(record, ...)` leaves these records."""

    def __init__(self, callback_class, logdir="trial_1", **settings):
        self.config = IGPOConfig().training(model_path="tiny", **settings)
        self.config.validate()
        self.callbacks = [callback_class()]
        self.logdir = logdir
        self.iteration = 0
        self.records: list = []
        identity = {"corpus": {"source": "world"}, "retriever": {"kind": "bm25"}, "questions": []}
        self.task = SimpleNamespace(identity=identity)
        self._call("on_algorithm_init")

    def train(self, *records):
        self.records = list(records)
        self.iteration = records[0].iteration
        result: dict[str, Any] = {"igpo": {"em": 0.5}}
        if len(records) > 1:
            result["evaluation"] = {"em_squad": 0.25}
            self.iteration -= 1
            self._call("on_evaluate_end", evaluation_metrics=result["evaluation"])
            self.iteration += 1
        self._call("on_train_result", result=result)

    def evaluate(self, record):
        self.records.append(record)
        self._call("on_evaluate_end", evaluation_metrics={"em_squad": 0.5})

    def fail(self, *records):
        self.records = list(records)
        self._call("on_failure")

    def stop(self):
        self._call("on_stop")

    def _call(self, hook, **arguments):
        for callback in self.callbacks:
            getattr(callback, hook)(algorithm=self, **arguments)


def rows(folder, query=ROWS):
    with open_run(folder) as log:
        return log.sql(query).fetchall()


def test_rows_of_training_and_evaluation_once_each(runs):
    algorithm = StubAlgorithm(log_to(runs, name="mine"))
    algorithm.evaluate(heldout(0, q1_right=True, q2_right=False))
    algorithm.train(train_1(), heldout(1, q1_right=True, q2_right=False))
    algorithm.evaluate(heldout(1, q1_right=True, q2_right=False))
    folder = runs / "mine" / "trial_1"
    found = rows(folder)
    assert [row[:3] for row in found] == [(1, 0, "heldout"), (1, 1, "heldout"), (1, 1, "train")]
    metrics = rows(folder, "SELECT split, metrics['em'], metrics['em_squad'] FROM iterations ORDER BY ALL")
    assert metrics == [("heldout", None, 0.25), ("heldout", None, 0.5), ("train", 0.5, None)]
    algorithm.stop()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_one_hash_of_the_settings_everywhere(runs):
    algorithm = StubAlgorithm(log_to(runs, name="mine"))
    algorithm.train(train_1())
    tracker = algorithm.callbacks[0]._attempt.tracker
    assert tracker.flush()
    algorithm.stop()
    folder = runs / "mine" / "trial_1"
    (logged,) = rows(folder, "SELECT DISTINCT config_hash FROM runs")
    assert rows(folder, "SELECT DISTINCT config_hash FROM episodes") == [logged]
    assert json.loads((folder / "run.json").read_text())["config_hash"] == logged[0]
    tags = MlflowClient(tracking_uri=tracker.tracking_uri).get_run(tracker.mlflow_run_id).data.tags
    assert tags["igpo.config_hash"] == logged[0]


def test_an_algorithm_restored_to_an_earlier_iteration_begins_an_attempt(runs):
    algorithm = StubAlgorithm(log_to(runs))
    algorithm.train(train_1())
    algorithm.train(train_2())
    algorithm.iteration = 1
    algorithm.train(train_2())
    algorithm.stop()
    folder = runs / "igpo" / "trial_1"
    assert [row[:3] for row in rows(folder)] == [(1, 1, "train"), (2, 2, "train")]
    attempts = "SELECT attempt, resumed_from_iteration, status FROM runs ORDER BY ALL"
    assert rows(folder, attempts) == [(1, None, "interrupted"), (2, 1, "finished")]


def test_a_restarted_trial_continues_its_run(runs):
    first = StubAlgorithm(log_to(runs))
    first.train(train_1())
    first.callbacks[0]._open.close()  # as the system does for a process that died
    second = StubAlgorithm(log_to(runs))
    second.iteration = 1
    second.evaluate(heldout(1, q1_right=True, q2_right=False))
    second.train(train_2())
    second.stop()
    found = [row[:3] for row in rows(runs / "igpo" / "trial_1")]
    assert found == [(1, 1, "train"), (2, 1, "heldout"), (2, 2, "train")]


def test_a_run_is_not_continued_under_other_settings(runs):
    StubAlgorithm(log_to(runs, run_id="mine"))
    with pytest.raises(InputError, match=r"`lr` \(1e-06 -> 0.5\) changed; give log_to another run_id"):
        StubAlgorithm(log_to(runs, run_id="mine"), lr=0.5)


def test_a_trial_that_gets_other_settings_is_another_run(runs):
    """As Tune's PopulationBasedTraining does, which gives a trial another one's weights too."""
    first = StubAlgorithm(log_to(runs))
    first.train(train_1())
    first.stop()
    second = StubAlgorithm(log_to(runs), lr=0.5)
    second.iteration = 1
    second.train(train_2())
    second.callbacks[0]._open.close()  # as the system does for a process that died
    again = StubAlgorithm(log_to(runs), lr=0.5)
    again.iteration = 1
    again.train(train_2())
    again.stop()
    back = StubAlgorithm(log_to(runs))  # the settings of the first run, but what follows the second
    back.iteration = 2
    back.train(replace(train_2(), iteration=3))
    back.stop()
    folder = runs / "igpo"
    assert sorted(path.name for path in folder.iterdir()) == ["trial_1", "trial_1_2", "trial_1_3"]
    found = [[row[:3] for row in rows(folder / name)] for name in ("trial_1", "trial_1_2", "trial_1_3")]
    assert found == [[(1, 1, "train")], [(2, 2, "train")], [(1, 3, "train")]]
    configs = [RunDirectory(folder / name).resolved["igpo"]["config"] for name in ("trial_1", "trial_1_2")]
    assert [config["lr"] for config in configs] == [1e-6, 0.5]


def test_a_run_is_finished_before_its_results_are_written(runs, monkeypatch):
    """Tune ends the process of a trial that takes more than five seconds to stop."""
    folder, seen = runs / "igpo" / "trial_1", []

    def look(run):
        metadata = json.loads((folder / "run.json").read_text())
        seen.append((metadata["status"], metadata["iteration"], rows(folder, "SELECT status FROM runs")))
        return []

    monkeypatch.setattr("pipeline.training.attempt.write_results", look)
    algorithm = StubAlgorithm(log_to(runs))
    algorithm.train(train_1())
    algorithm.stop()
    assert seen == [("finished", 1, [("finished",)])]


def test_the_rollouts_of_an_iteration_that_failed(runs, caplog):
    algorithm = StubAlgorithm(log_to(runs))
    algorithm.train(train_1())
    with caplog.at_level(logging.WARNING):
        algorithm.fail(train_2())
    folder = runs / "igpo" / "trial_1"
    assert [row[:3] for row in rows(folder)] == [(1, 1, "train"), (1, 2, "train")]
    assert f"rollouts of iteration 2 (train): igpo sql {folder}" in caplog.text
    assert rows(folder, "SELECT status FROM runs") == [("failed",)]
    algorithm.train(train_2())
    algorithm.stop()
    assert [row[:3] for row in rows(folder)] == [(1, 1, "train"), (2, 2, "train")]


def test_the_command_that_shows_them_names_a_path_with_blanks(runs, caplog):
    algorithm = StubAlgorithm(log_to(runs, name="my run"))
    with caplog.at_level(logging.WARNING):
        algorithm.fail(train_2())
    said = next(record.getMessage() for record in caplog.records if "igpo sql" in record.getMessage())
    words = shlex.split(said.partition("igpo sql ")[2])
    assert words == [str(runs / "my run" / "trial_1"), "SELECT * FROM turns WHERE iteration = 2"]


def test_a_run_that_failed_before_its_first_rollout_can_be_tried_again(runs):
    algorithm = StubAlgorithm(log_to(runs))
    algorithm.fail()
    algorithm.train(train_1())
    algorithm.stop()
    assert [row[:3] for row in rows(runs / "igpo" / "trial_1")] == [(1, 1, "train")]


def test_a_run_that_never_logged_leaves_no_folder(runs):
    algorithm = StubAlgorithm(log_to(runs))
    algorithm.fail()
    algorithm.stop()
    assert not (runs / "igpo").exists()


def test_a_run_that_python_goes_on_with_keeps_the_stop_that_it_had(runs):
    algorithm = StubAlgorithm(log_to(runs, run_id="mine"))
    algorithm.train(train_1())
    algorithm.stop()
    run = RunDirectory(runs / "igpo" / "mine")
    content = run.resolved
    content["igpo"]["stop"] = {"training_iteration": 14}
    run.replace_config(content)
    StubAlgorithm(log_to(runs, run_id="mine"))
    assert run.resolved == content
    tokens = content["igpo"]["config"]["tokens_per_micro_batch"] + 1
    StubAlgorithm(log_to(runs, run_id="mine"), tokens_per_micro_batch=tokens)  # a wider limit
    content["igpo"]["config"]["tokens_per_micro_batch"] = tokens
    assert run.resolved == content


def small_config(policy, callback) -> IGPOConfig:
    world = {"entities": 50, "train_questions": 100, "heldout_questions": 20}
    env = {"max_turns": 3, "max_turn_tokens": 8, "max_context_tokens": 256, "world": world}
    config = IGPOConfig().environment("search", env_config=env)
    config.training(
        model_path=str(policy), prompts_per_iteration=4, group_size=4, lr=1e-4, evaluation_questions=5,
        engine={"kv_cache_gib": 0.25, "max_num_seqs": 32},
    )  # fmt: skip
    return config.evaluation(evaluation_interval=2).callbacks(callback)


def fail(**arguments):
    raise FloatingPointError


WANTED = [(1, 1, "train", 16), (1, 2, "heldout", 5), (1, 2, "train", 16)]


@pytest.fixture
def ray():
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, ignore_reinit_error=True)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_training_through_the_python_api(runs, tmp_path, ray, monkeypatch):
    config = small_config(write_policy(tmp_path / "policy"), log_to(runs, name="mine"))
    algorithm = config.build_algo()
    for _ in range(2):
        result = algorithm.train()
    with open_run("mine", runs_dir=runs) as log:
        assert log.sql(ROWS).fetchall() == WANTED, "rows are there when train() returns"
    checkpoint = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.train()
    algorithm.restore_from_path(checkpoint)
    result = algorithm.train()
    monkeypatch.setattr(algorithm.learner_group, "update", fail)
    with pytest.raises(FloatingPointError):
        algorithm.train()
    algorithm.stop()
    with open_run("mine", runs_dir=runs) as log:
        assert log.sql(ROWS).fetchall() == [*WANTED, (2, 3, "train", 16), (2, 4, "train", 16)]
        em = log.sql("SELECT metrics['em'] FROM iterations WHERE iteration = 3").fetchall()
        credited = log.sql("SELECT iteration, count(advantage) > 0 FROM turns GROUP BY ALL ORDER BY ALL")
        assert em == [(result["igpo"]["em"],)]
        assert credited.fetchall() == [(1, True), (2, True), (3, True), (4, False)]


@pytest.mark.slow
def test_training_through_tune(runs, tmp_path, ray):
    from ray import tune

    config = small_config(write_policy(tmp_path / "policy"), log_to(runs, name="mine"))
    config.training(lr=tune.grid_search([1e-4, 1e-3]))
    where = tune.RunConfig(storage_path=str(tmp_path / "tune"), stop={"training_iteration": 2})
    results = tune.Tuner(IGPO, param_space=config, run_config=where).fit()
    assert not results.errors
    trials = sorted((runs / "mine").iterdir())
    assert len(trials) == 2
    for trial in trials:
        assert rows(trial) == WANTED
        assert rows(trial, "SELECT status FROM runs") == [("finished",)]
    rates = [rows(trial, "SELECT config->>'$.config.lr' FROM runs")[0][0] for trial in trials]
    assert rates == ["0.0001", "0.001"]
