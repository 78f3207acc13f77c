"""A learning rate that changes with the turns sampled: `lr: [[turns, lr], ...]`."""

from types import SimpleNamespace

import pytest
from igpo_learner_setup import make_batch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.igpo.algorithm import IGPO
from algorithms.igpo.config import IGPOConfig

RATE, TURNS = 1e-3, 1000


def test_the_learner_is_told_each_turn_once():
    told, sampled, metrics = [], 0, MetricsLogger(root=True)

    def update(training_data, timesteps, num_epochs):
        told.append(timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME])
        return []

    algorithm = SimpleNamespace(
        metrics=metrics,
        config=SimpleNamespace(num_learners=0),
        learner_group=SimpleNamespace(update=update, foreach_learner=lambda function, **options: []),
        _weights_version=0,
    )
    for seed in range(3):
        episodes, runner = make_batch(seed=seed), MetricsLogger()
        num_turns = sum(episode.custom_data["rollout"].num_turns for episode in episodes)
        runner.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, num_turns, reduce="lifetime_sum")
        metrics.aggregate([runner.reduce()], key=ENV_RUNNER_RESULTS)
        IGPO._learn(algorithm, episodes)  # ty: ignore[invalid-argument-type]
        sampled += num_turns
        assert told[-1] == sampled


@pytest.fixture
def algorithm_of():
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    made = []

    def make():
        config = (
            IGPOConfig()
            .environment("search", env_config={"world": {"train_questions": 20, "heldout_questions": 5}, "max_turns": 3})
            .training(
                model_path="tiny",
                lr=[[0, RATE], [TURNS, 0.0]],
                prompts_per_iteration=2,
                group_size=2,
                engine={"kind": "transformers"},
            )
            .env_runners(num_env_runners=0)
        )
        made.append(config.build_algo())
        return made[-1]

    yield make
    for algorithm in made:
        algorithm.stop()
    ray.shutdown()


@pytest.mark.slow
def test_the_rate_falls_by_the_turns_that_were_sampled(algorithm_of, tmp_path):
    """Each turn counts once, and a restored run counts on."""
    algorithm, turns = algorithm_of(), 0
    for iteration in range(3):
        if iteration == 2:
            algorithm.save_to_path(str(tmp_path))
            algorithm = algorithm_of()
            algorithm.restore_from_path(str(tmp_path))
        rate = algorithm.train()["learners"]["default_policy"]["lr"]
        assert rate == pytest.approx(RATE * (1 - turns / TURNS), rel=1e-6)
        turns += sum(rollout.num_turns for rollout in algorithm.records[0].rollouts)
