"""Pairs of an env runner and a learner that take turns, each pair on one GPU
(`engine.placement: colocated`)."""

import pytest
from colocated_config import pairs_config

from algorithms.igpo.weights.colocation import check_pairs
from envs.engine.base import NO_WEIGHTS
from envs.errors import InputError
from envs.runner import env_runner
from envs.runner.env_runner import IGPOEnvRunner

NODE, OTHER = "aaaaaaaabbbb", "ccccccccdddd"


def make_config(*, pairs: int, of_runner: float = 0.0, of_learner: float = 0.0, placement="colocated"):
    config = pairs_config(pairs, placement=placement)
    return config.env_runners(num_gpus_per_env_runner=of_runner).learners(num_gpus_per_learner=of_learner)


@pytest.mark.parametrize(
    ("pairs", "of_runner", "of_learner"),
    [(1, 0, 0), (1, 0.5, 0.5), (4, 0, 0), (2, 0.6, 0.4), (8, 0.9, 0.1), (2, 0.7, 0.3), (2, 0.6, 0.21)],
)
def test_shares_that_ray_can_only_place_in_pairs(pairs, of_runner, of_learner):
    make_config(pairs=pairs, of_runner=of_runner, of_learner=of_learner).validate()


@pytest.mark.parametrize(
    ("of_runner", "of_learner", "message"),
    [
        (0.5, 0.5, "may put two env runners on one GPU: .* for example 0.6 and 0.4"),
        (0.6, 0.2, "may put two learners on one GPU: .* for example 0.6 and 0.4"),
        (0.7, 0.4, "share one GPU: set them to 0.6 and 0.4, not 0.7 and 0.4"),
        (0.6, 0, "share one GPU: set them to 0.6 and 0.4, not 0.6 and 0"),
    ],
)
def test_shares_with_which_two_of_a_kind_could_meet_are_refused(of_runner, of_learner, message):
    with pytest.raises(InputError, match=message):
        make_config(pairs=2, of_runner=of_runner, of_learner=of_learner).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_env_runners": 3}, "set num_env_runners and num_learners to the same number, not 3 and 2"),
        ({"num_learners": 1}, "to the same number, not 2 and 1"),
        ({"num_env_runners": 0}, "to the same number, not 0 and 2"),
        ({"shard_learner": True}, "because shards that wait in host memory cannot be gathered there"),
    ],
)
def test_what_cannot_take_turns_in_pairs_is_refused(change, message):
    config = make_config(pairs=2)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=message):
        config.validate()


@pytest.mark.parametrize(("of_runner", "of_learner"), [(0, 0), (0.6, 0.4)])
def test_an_engine_of_several_gpus_does_not_take_turns(of_runner, of_learner):
    config = make_config(pairs=2, of_runner=of_runner, of_learner=of_learner)
    config.engine = {**config.engine, "tensor_parallel_size": 2}
    with pytest.raises(InputError, match="tensor_parallel_size is 2 and num_gpus_per_env_runner is"):
        config.validate()


def one(number, node=NODE):
    return ((node, str(number)),)


def test_pairs_in_any_order_pass_and_a_lost_runner_is_left_out():
    check_pairs({1: one(1), 2: one(0)}, {0: one(0), 1: one(1)})
    check_pairs({1: one(0), 2: one(0, OTHER)}, {0: one(0, OTHER), 1: one(0)})  # the same number elsewhere
    check_pairs({2: one(0)}, {0: one(0), 1: one(1)})


@pytest.mark.parametrize(
    ("of_runners", "message"),
    [
        ({1: one(0), 2: one(0)}, "env runners 1 and 2 are both on GPU 0 of node aaaaaaaa:"),
        ({1: one(0), 2: one(2)}, "env runner 2 is on GPU 2 of node aaaaaaaa, where no learner is:"),
        ({1: one(0), 2: one(1, OTHER)}, "env runner 2 is on GPU 1 of node cccccccc, where no learner is:"),
        ({1: one(0), 2: ()}, "env runner 2 is on no GPU, where no learner is:"),
    ],
)
def test_what_is_no_pair_is_refused_with_the_cure(of_runners, message):
    with pytest.raises(InputError, match=message) as refused:
        check_pairs(of_runners, {0: one(0), 1: one(1)})
    assert "show Ray as many GPUs as there are pairs, 2 (CUDA_VISIBLE_DEVICES)" in str(refused.value)
    assert "num_gpus_per_env_runner to 0.6 and num_gpus_per_learner to 0.4" in str(refused.value)


def test_two_learners_on_one_gpu_are_refused():
    with pytest.raises(InputError, match="learners 0 and 1 are both on GPU 1 of node aaaaaaaa:"):
        check_pairs({1: one(0), 2: one(1)}, {0: one(1), 1: one(1)})


@pytest.mark.parametrize("placement", ["separate", "colocated"])
def test_a_restarted_runner_beside_a_learner_has_no_engine_until_its_weights(monkeypatch, placement):
    monkeypatch.setattr(env_runner, "_is_restarted", lambda: True)
    built = []
    monkeypatch.setattr(IGPOEnvRunner, "_build_loop", lambda self: built.append("loop") or Loop())
    config = make_config(pairs=1, placement=placement)
    runner = IGPOEnvRunner(config=config, worker_index=1)
    assert built == ([] if placement == "colocated" else ["loop"])
    assert runner.weights_version == NO_WEIGHTS
    runner.sleep()
    runner.load_weights({}, 3)
    assert built == ["loop"]
    beside = IGPOEnvRunner(config=config, worker_index=0)  # the driver's, with runners in other processes
    beside.load_weights({}, 3)
    assert beside.loop is None


class Loop:
    """A loop of no policy."""

    def __init__(self):
        self.engines = {}
