"""A runner that dies between two samplings is started anew by Ray without RLlib's knowing: it gets the run's
configuration and weights before it samples.
"""

import os
import signal
import time

import pytest
import ray
from local_ray import local_ray
from ray.exceptions import RayActorError

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.remote import on_runners


def make_config(**env):
    world = {"train_questions": 40, "heldout_questions": 5}
    model = {"model_path": "tiny", "engine": {"kind": "transformers"}}
    return (
        IGPOConfig()
        .environment("search", env_config={"world": world, "max_turns": 3, **env})
        .training(prompts_per_iteration=2, group_size=2, **model)
        .env_runners(num_env_runners=1)
    )


@pytest.mark.slow
def test_a_runner_that_died_while_nothing_sampled_is_given_weights():
    with local_ray(num_cpus=2):
        algorithm = make_config().build_algo()
        algorithm.train()
        _kill(algorithm)
        metrics = algorithm.train()["igpo"]
        assert metrics["weights_version"] == 1
        assert metrics["rollouts_sampled"] == 4
        algorithm.stop()


@pytest.mark.slow
def test_a_runner_that_died_after_a_reset_is_in_the_same_run_as_the_others():
    """Ray starts it with the first run's configuration."""
    with local_ray(num_cpus=2):
        algorithm = make_config(format_penalty=-1.0, max_turn_tokens=32).build_algo()
        other = make_config(format_penalty=-2.0, max_turn_tokens=7).training(belief_method="tree")
        assert algorithm.reset(other)
        expected = on_runners(algorithm.env_runner_group, _settings)
        assert expected == [(-2.0, 7, False, 0)]
        _kill(algorithm)
        algorithm.train()
        assert on_runners(algorithm.env_runner_group, _settings) == [(-2.0, 7, False, 1)]
        algorithm.stop()


def _settings(runner):
    settings = runner.loop.task.settings
    held = settings.format_penalty, settings.max_turn_tokens
    return *held, runner.loop.scores_on_engine, runner.weights_version


def _kill(algorithm):
    runner = algorithm.env_runner_group._worker_manager.actors()[1]
    killed = ray.get(runner.apply.remote(lambda _: os.getpid()))
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while _process_of(runner) in (None, killed):
        assert time.monotonic() < deadline, "Ray did not start the runner anew"
        time.sleep(0.5)


def _process_of(runner) -> int | None:
    try:
        return ray.get(runner.apply.remote(lambda _: os.getpid()))
    except RayActorError:
        return None
