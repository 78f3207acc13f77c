"""A learning rate that changes, with the turns sampled or with the batches, and the settings of AdamW."""

import re
import threading
from types import SimpleNamespace

import pytest
import torch
from igpo_learner_setup import gradients, make_batch, make_learner, save_tiny_llama, update
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from algorithms.igpo.algorithm import IGPO
from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner.lr_schedule import lr_share
from envs.errors import InputError


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


def test_the_share_of_the_rate_by_hand():
    linear = [lr_share(k, warmup=2, decay="linear", until=6) for k in range(1, 9)]
    assert linear == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    cosine = [lr_share(k, decay="cosine", until=2, final=0.5) for k in (1, 2, 3, 4)]
    assert cosine == pytest.approx([1.0, 0.75, 0.5, 0.5])
    assert [lr_share(k, warmup=4) for k in (1, 2, 4, 5, 100)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert [lr_share(k) for k in (1, 100)] == [1.0, 1.0]


def logged_rate(result):
    return result["default_policy"]["lr"].peek()


def test_a_batch_is_learned_at_the_rate_of_its_number(tmp_path):
    path = save_tiny_llama(tmp_path)
    schedule = {"lr": 1e-3, "lr_warmup_iterations": 2, "lr_decay": "linear", "lr_decay_iterations": 4}
    learner = make_learner(path, **schedule)
    assert [logged_rate(update(learner, make_batch())) for _ in range(3)] == pytest.approx([5e-4, 1e-3, 1e-3])
    restored = make_learner(path, **schedule)
    restored.set_state(learner.get_state())
    rates = [logged_rate(update(one, make_batch())) for one in (learner, restored)]
    assert rates == pytest.approx([5e-4, 5e-4])


def test_the_first_step_of_adamw_by_hand(tmp_path):
    """After one step the moments cancel: w <- w (1 - lr wd) - lr g / (|g| + eps), at half the rate."""
    path = save_tiny_llama(tmp_path)
    adam = {"weight_decay": 0.5, "adam_betas": [0.5, 0.75], "adam_eps": 1e-3}
    learner = make_learner(path, lr=1e-2, lr_warmup_iterations=2, grad_clip=None, **adam)
    before = {n: p.clone() for n, p in learner.module["default_policy"].unwrapped().hf.named_parameters()}
    update(learner, make_batch())
    steps = gradients(learner)
    for name, after in learner.module["default_policy"].unwrapped().hf.named_parameters():
        gradient = steps[name]
        expected = before[name] * (1 - 5e-3 * 0.5) - 5e-3 * gradient / (gradient.abs() + 1e-3)
        torch.testing.assert_close(after, expected)


def test_a_restored_optimizer_takes_the_settings_of_its_own_configuration(tmp_path):
    path = save_tiny_llama(tmp_path)
    old, new = make_learner(path), make_learner(path, weight_decay=0.25, adam_betas=[0.8, 0.95])
    update(old, make_batch())
    new.set_state(old.get_state())
    update(new, make_batch())
    ((_, optimizer),) = new.get_optimizers_for_module("default_policy")
    assert {(group["weight_decay"], group["betas"]) for group in optimizer.param_groups} == {
        (0.25, (0.8, 0.95))
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr_decay": "linear"}, "lr_decay linear needs its end: set lr_decay_iterations"),
        ({"lr_decay": "linaer", "lr_decay_iterations": 3}, "lr_decay is 'linaer'; use one of none, linear"),
        (
            {"lr_decay": "cosine", "lr_decay_iterations": 3, "lr_warmup_iterations": 3},
            "must be above lr_warmup_iterations, 3",
        ),
        ({"lr_decay_iterations": 3}, "lr_decay_iterations has no effect without lr_decay"),
        ({"lr_final_share": 0.1}, "lr_final_share has no effect without lr_decay"),
        ({"lr": [[0, 1e-3], [9, 0.0]], "lr_warmup_iterations": 2}, "lr is a schedule of its own"),
        ({"lr_warmup_iterations": -1}, "lr_warmup_iterations is -1; it must be a whole number, 0 or more"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0 or more"),
        ({"adam_betas": [0.9]}, "adam_betas is [0.9]; it must be two numbers from 0 to below 1"),
        ({"adam_betas": [0.9, 1.0]}, "it must be two numbers from 0 to below 1"),
        ({"adam_eps": 0}, "adam_eps is 0; it must be above 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError, match=re.escape(said)):
        IGPOConfig().rl_module(model_path="tiny").training(**settings).validate()
