"""Settings of one policy alone: those that the learner reads per policy are taken, all others refused."""

import pytest

from algorithms.igpo.config import IGPOConfig
from envs.errors import InputError


def config_with(**overrides):
    config = IGPOConfig().environment("search", env_config={}).training(model_path="tiny")
    return config.multi_agent(algorithm_config_overrides_per_module={"default_policy": overrides})


def test_what_a_policy_may_have_of_its_own():
    config = config_with(lr=1e-5, kl_coeff=0.5, clip_high=0.3)
    config.validate()
    own = config.get_config_for_module("default_policy")
    assert own.lr == 1e-5 and own.loss_settings().kl_coeff == 0.5 and own.loss_settings().clip_high == 0.3
    assert config.loss_settings().kl_coeff == 0.001


@pytest.mark.parametrize(
    "name", ["entropy_coeff", "loss_aggregation", "num_epochs", "gamma", "preset", "model_path"]
)
def test_what_only_all_can_have_is_refused(name):
    with pytest.raises(
        InputError, match=f"sets {name} for default_policy alone; policies may differ in lr, grad_clip"
    ):
        config_with(**{name: 1}).validate()
