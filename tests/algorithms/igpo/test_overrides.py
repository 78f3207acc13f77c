"""Settings of one policy alone: those that the learner reads per policy are taken, all others refused."""

import re

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


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", "fast", "lr is 'fast'; it must be"),
        ("lr", -1.0, "lr is -1.0; it must be"),
        ("lr", [[0, "fast"]], "a schedule is"),
        ("grad_clip", "a", "grad_clip is 'a'; it must be"),
        ("kl_coeff", -3, "kl_coeff is -3; it must be 0 or more"),
        ("clip_low", "x", "clip_low is 'x'; it must be 0 or more"),
        ("dual_clip", "x", "dual_clip is 'x'; it must be above 1"),
        ("mismatch_cap", -1, "mismatch_cap is -1; it must be 0 or more"),
        ("ratio_level", "nonsense", "ratio_level is 'nonsense'; use one of token"),
    ],
)
def test_a_value_of_one_policy_is_checked_before_the_run(name, value, said):
    with pytest.raises(InputError, match="^`policies` of default_policy: .*" + re.escape(said)):
        config_with(**{name: value}).validate()


def test_a_fault_of_all_is_not_told_as_one_policy_s():
    config = config_with(kl_coeff=0.5)
    config.lr = -1.0
    with pytest.raises(InputError, match=r"^lr is -1\.0"):
        config.validate()


@pytest.mark.parametrize(
    ("common", "own", "said"),
    [
        ({"max_weight_lag": 1}, {"mismatch_cap": 0}, "needs its importance correction"),
        ({"lr_warmup_iterations": 2}, {"lr": [[0, 1e-4], [9, 1e-5]]}, "lr is a schedule of its own"),
    ],
)
def test_what_all_cannot_combine_one_policy_cannot_either(common, own, said):
    with pytest.raises(InputError, match="^`policies` of default_policy: .*" + said):
        config_with(**own).training(**common).validate()


def test_a_refresh_needs_a_reference_of_a_policy_that_learns():
    roles = [
        {"name": "searcher", "policy": "searcher"},
        {"name": "reader", "actions": ["message"], "reads": "searcher", "policy": "reader"},
    ]

    def check(kl_coeff, own, trained=None):
        config = IGPOConfig().environment("search", env_config={"roles": roles})
        config.training(model_path="tiny", kl_coeff=kl_coeff, reference_refresh_interval=1)
        config.multi_agent(algorithm_config_overrides_per_module=own, policies_to_train=trained).validate()

    check(0.0, {"reader": {"kl_coeff": 0.01}})
    for without in (
        (0.01, {"reader": {"kl_coeff": 0.0}, "searcher": {"kl_coeff": 0.0}}),
        (0.01, {"reader": {"kl_coeff": 0.0}}, ["reader"]),
        (0.0, {"searcher": {"kl_coeff": 0.01}}, ["reader"]),
    ):
        with pytest.raises(InputError, match="kl_coeff above 0 for a policy that learns"):
            check(*without)
