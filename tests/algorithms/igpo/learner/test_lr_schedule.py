"""A learning rate that changes with the turns sampled: `lr: [[turns, lr], ...]`."""

import threading
from types import SimpleNamespace

from igpo_learner_setup import make_batch
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.igpo.algorithm import IGPO


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
        _weights_lock=threading.Lock(),
    )
    for seed in range(3):
        episodes, runner = make_batch(seed=seed), MetricsLogger()
        num_turns = sum(episode.custom_data["rollout"].num_turns for episode in episodes)
        runner.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, num_turns, reduce="lifetime_sum")
        metrics.aggregate([runner.reduce()], key=ENV_RUNNER_RESULTS)
        IGPO._learn(algorithm, episodes)  # ty: ignore[invalid-argument-type]
        sampled += num_turns
        assert told[-1] == sampled
