"""Sampling during the update (`max_weight_lag` 1): what is refused, and that it is exact about versions and
resuming.
"""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm import Algorithm

from algorithms.igpo.algorithm import IGPO
from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.remote import in_background
from algorithms.igpo.sampling import SampledBatch
from algorithms.igpo.weights.push import WeightPush
from envs.data.prompt_sampler import PromptSampler
from envs.errors import InputError


def make_config(**training):
    return (
        IGPOConfig()
        .environment(
            "search", env_config={"world": {"train_questions": 40, "heldout_questions": 5}, "max_turns": 3}
        )
        .training(
            model_path="tiny",
            lr=1e-3,
            prompts_per_iteration=2,
            group_size=2,
            engine={"kind": "transformers"},
            **{"max_weight_lag": 1, **training},
        )
        .env_runners(num_env_runners=1)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_weight_lag": 2}, "use 0, or 1"),
        ({"mismatch_cap": 0}, "set mismatch_cap above 0"),
        ({"belief_method": "tree"}, "set belief_method to vllm_prefix"),
    ],
)
def test_what_lag_cannot_do_is_refused(change, message):
    config = make_config()
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=message):
        config.validate()


def test_lag_needs_a_runner_of_its_own():
    with pytest.raises(InputError, match="set num_env_runners to 1 or more"):
        make_config().env_runners(num_env_runners=0).validate()


def test_background_runs_beside_and_raises_where_it_is_waited_for():
    gate = threading.Event()
    future = in_background(lambda value: gate.wait(10) and value, 7)
    assert not future.done()
    gate.set()
    assert future.result(10) == 7
    with pytest.raises(KeyError, match="lost"):
        in_background({}.__getitem__, "lost").result(10)


def test_weights_that_were_not_kept_are_taken_from_the_learner_once_its_update_is_over(monkeypatch):
    monkeypatch.setattr("algorithms.igpo.learner_calls.shard_groups", lambda episodes, count: [episodes])
    updating, over = threading.Event(), threading.Event()

    def update(**_):
        updating.set()
        assert over.wait(10)
        return []

    algorithm = IGPO.__new__(IGPO)
    algorithm.config = SimpleNamespace(num_learners=0)
    algorithm._weights_lock, algorithm._weights_version = threading.Lock(), 4
    algorithm.learner_group = SimpleNamespace(update=update, foreach_learner=lambda *_, **__: [])
    algorithm.metrics = SimpleNamespace(peek=lambda *_: 0, aggregate=lambda *_, **__: None)
    algorithm._weight_push = SimpleNamespace(
        push=lambda version, runners: (version, runners), keeps_weights=False
    )
    learned = in_background(algorithm._learn, [])
    assert updating.wait(10)
    pushed = in_background(algorithm.push_weights, [1])
    with pytest.raises(TimeoutError):
        pushed.result(0.2)
    over.set()
    assert pushed.result(10) == (5, [1]) and learned.result(10) == ({}, [])


class Engine:
    """An env runner in this process, with the weights that it was given."""

    held = None

    def begin_run(self, config, run): ...

    def load_weights(self, modules, version):
        self.held = str(modules["policy"]["w"])
        return version


class Runners:
    local_env_runner = None

    def __init__(self, *runners):
        self.runners = dict(enumerate(runners, start=1))

    def num_healthy_env_runners(self):
        return len(self.runners)

    def foreach_env_runner(self, function, *, local_env_runner, remote_worker_ids):
        ids = self.runners if remote_worker_ids is None else remote_worker_ids
        return [function(self.runners[k]) for k in ids]


@pytest.mark.parametrize(("lag", "given"), [(1, "old"), (0, "new")])
def test_a_runner_that_comes_back_during_the_update_gets_what_the_others_hold(monkeypatch, lag, given):
    """The batch that is sampled meanwhile is by the weights before the update, all of it."""
    monkeypatch.setattr("algorithms.igpo.weights.push.ray", SimpleNamespace(put=lambda x: x, get=lambda x: x))
    learner, runners = SimpleNamespace(_learner_index=0, weights="old"), Runners(Engine(), Engine())
    learner.get_state = lambda **_: {"rl_module": {"policy": {"w": np.array(learner.weights)}}}
    learners = SimpleNamespace(foreach_learner=lambda f, **_: [SimpleNamespace(get=lambda: f(learner))])
    algorithm = IGPO.__new__(IGPO)
    algorithm._weights_lock, algorithm._weights_version = threading.Lock(), 4
    config = make_config(max_weight_lag=lag, mismatch_cap=2.0)
    algorithm._weight_push = WeightPush(config, learners, runners)
    algorithm.push_weights()
    learner.weights, algorithm._weights_version = "new", 5
    runners.runners[2] = Engine()  # died and was restarted
    algorithm.push_weights([2])
    assert [engine.held for engine in runners.runners.values()] == ["old", given]
    algorithm.push_weights()
    assert [engine.held for engine in runners.runners.values()] == ["new", "new"]


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        ({}, True),
        ({"lr": 1e-4}, True),
        ({"group_size": 4}, False),
        ({"max_weight_lag": 0}, False),
        ({"preset": "trace"}, False),  # belief is the reference's, and this batch has the current policy's
    ],
)
def test_a_batch_that_other_settings_sampled_ahead_is_drawn_again(monkeypatch, change, is_kept):
    monkeypatch.setattr(Algorithm, "get_state", lambda self, *_, **__: {})
    monkeypatch.setattr(Algorithm, "set_state", lambda self, state: None)

    def algorithm_of(config, ahead):
        algorithm = IGPO.__new__(IGPO)
        algorithm.config, algorithm.prompt_sampler = config, PromptSampler(40, seed=0)
        algorithm._ahead, algorithm._weights_version = ahead, 1
        return algorithm

    saved = algorithm_of(make_config(), None)
    saved.prompt_sampler.next(2)
    before = saved.prompt_sampler.state()
    saved._ahead = SampledBatch([], 0, 0, [], 0, 1.0, {}, drawn_from=before)
    saved.prompt_sampler.next(2)
    restored = algorithm_of(make_config().training(**change), None)
    restored.set_state(saved.get_state())
    assert restored._ahead is (saved._ahead if is_kept else None)
    assert restored.prompt_sampler.state() == (saved.prompt_sampler.state() if is_kept else before)


@pytest.mark.parametrize(("begins_run", "goes_on"), [(False, True), (True, False)])
def test_a_new_run_of_another_seed_draws_its_own_prompts(monkeypatch, begins_run, goes_on):
    monkeypatch.setattr(Algorithm, "set_state", lambda self, state: None)
    sampler, own = PromptSampler(40, seed=0), PromptSampler(40, seed=1).state()
    sampler.next(2)
    algorithm = IGPO.__new__(IGPO)
    algorithm.config, algorithm.begins_run = make_config(), begins_run
    algorithm.prompt_sampler = PromptSampler(40, seed=1)
    algorithm.set_state({"igpo": {"cursor": sampler.state(), "weights_seq_no": 3}})
    assert algorithm.prompt_sampler.state() == (sampler.state() if goes_on else own)


def trace(algorithm):
    """What an iteration trained on: (sampled at version, lag, ids of every decision)."""
    result = algorithm.train()["igpo"]
    (record,) = algorithm.records
    turns = [(r.id, turn.decision_text, turn.weights_version) for r in record.rollouts for turn in r.turns]
    return record.weights_version, result["weight_lag"], turns


def weights_of(algorithm):
    return algorithm.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"][
        "default_policy"
    ]


@pytest.mark.slow
def test_versions_and_an_exact_resume(tmp_path):
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        straight = make_config().build_algo()
        traces = [trace(straight), trace(straight)]
        straight.save_to_path(str(tmp_path / "checkpoint"))
        traces += [trace(straight), trace(straight)]
        assert [(version, lag) for version, lag, _ in traces] == [(0, 0.0), (0, 1.0), (1, 1.0), (2, 1.0)]
        assert all(turn[2] == version for version, _, turns in traces for turn in turns)
        expected = weights_of(straight)
        straight.stop()
        resumed = make_config().build_algo()
        resumed.restore_from_path(str(tmp_path / "checkpoint"))
        assert [trace(resumed), trace(resumed)] == traces[2:]
        for name, array in weights_of(resumed).items():
            # Requests meet others in another order, so sums are rounded differently; a wrong batch moves
            # weights by 1e-3.
            np.testing.assert_allclose(array, expected[name], atol=1e-4)
        resumed.stop()
    finally:
        ray.shutdown()
