"""A runner that dies between two samplings is started anew by Ray without RLlib's knowing: it gets weights
before it samples.
"""

import os
import signal
import time

import pytest
import ray
from ray.exceptions import RayActorError

from algorithms.igpo.config import IGPOConfig


@pytest.mark.slow
def test_a_runner_that_died_while_nothing_sampled_is_given_weights():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    algorithm = (
        IGPOConfig()
        .environment(
            "search", env_config={"world": {"train_questions": 40, "heldout_questions": 5}, "max_turns": 3}
        )
        .training(model_path="tiny", prompts_per_iteration=2, group_size=2, engine={"kind": "transformers"})
        .env_runners(num_env_runners=1)
    ).build_algo()
    try:
        algorithm.train()
        runner = algorithm.env_runner_group._worker_manager.actors()[1]
        killed = ray.get(runner.apply.remote(lambda _: os.getpid()))
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while _process_of(runner) in (None, killed):
            assert time.monotonic() < deadline, "Ray did not start the runner anew"
            time.sleep(0.5)
        metrics = algorithm.train()["igpo"]
        assert metrics["weights_version"] == 1
        assert metrics["rollouts_sampled"] == 4
    finally:
        algorithm.stop()
        ray.shutdown()


def _process_of(runner) -> int | None:
    try:
        return ray.get(runner.apply.remote(lambda _: os.getpid()))
    except RayActorError:
        return None
