"""Two learners (Ray actors, gloo) give the loss and gradient of one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from igpo_learner_setup import (
    gradients,
    learner_config,
    make_batch,
    make_learner,
    module_spec,
    save_tiny_llama,
    update,
)
from local_ray import local_ray

from algorithms.igpo.learner.distributed import DistributedLearner
from algorithms.igpo.learner.groups import shard_groups
from algorithms.igpo.loss_settings import LossSettings


@pytest.fixture(scope="module")
def ray_of_two_cpus():
    with local_ray(num_cpus=2) as ray:
        yield ray


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "loss"),
    [
        ("igpo", LossSettings(kl_coeff=0.01)),
        ("reinforce_pp", LossSettings(kl_coeff=0.0, loss_aggregation="token_mean", ratio_level="turn")),
    ],
)
def test_two_learners_equal_one(ray_of_two_cpus, tmp_path, preset, loss):
    from ray.rllib.core.learner.training_data import TrainingData

    paths = {"default_policy": save_tiny_llama(tmp_path)}
    settings = {
        "preset": preset,
        "loss": loss,
        "tokens_per_micro_batch": 100,
        "num_minibatches": 2,
        "lr": 0.0,  # Adam would turn a difference of 1e-9 in a gradient of 0 into a whole step
        "grad_clip": 1e6,
    }
    config = learner_config(**settings).learners(num_learners=2)
    group = config.build_learner_group(rl_module_spec=module_spec(paths))
    one = make_learner(paths, **settings)
    try:
        for groups, size in ((5, 3), (1, 4)):  # in the second batch one learner has nothing to do
            episodes = make_batch(groups=groups, size=size, seed=groups, agents=("searcher", "reader"))
            alone = update(one, episodes)["default_policy"]
            expected = gradients(one)
            shards = shard_groups(episodes, 2)
            assert sorted(len(shard) for shard in shards) == sorted([6, 9] if groups == 5 else [0, 4])
            results = group.update(
                training_data=TrainingData(episodes_refs=[ray_of_two_cpus.put(shard) for shard in shards]),
                timesteps={"num_env_steps_sampled_lifetime": 100},
            )
            assert len(results) == 2
            for result in results:
                for name in (
                    "loss",
                    "policy_loss",
                    "entropy",
                    "grad_norm",
                    "logp_gap_mean",
                    "logp_gap_max",
                    "tokens",
                ):
                    got = result["default_policy"][name].peek()
                    assert got == pytest.approx(alone[name].peek(), abs=1e-6, rel=1e-6), name
            of_each = [result.get() for result in group.foreach_learner(gradients)]
            for got in of_each:
                for name, gradient in expected.items():
                    torch.testing.assert_close(got[name], gradient, atol=1e-6, rtol=1e-6)
            credit, statistics = {}, []
            for result in group.foreach_learner(lambda learner: learner.take_credit()):
                credit |= result.get()[0]
                statistics += result.get()[1]
            own_credit, own_statistics = one.take_credit()
            assert credit.keys() == own_credit.keys() and len(statistics) == len(own_statistics) == groups
            for key, turn in own_credit.items():
                assert credit[key].advantage == pytest.approx(turn.advantage, abs=1e-12)
                assert credit[key].logp_gap_mean == pytest.approx(turn.logp_gap_mean, abs=1e-5)
    finally:
        group.shutdown()


def test_copies_begin_as_the_first_and_add_up_their_gradients(monkeypatch):
    """Without torch's DDP, which would keep as many numbers on the device as there are gradients."""
    layer, frozen = torch.nn.Linear(2, 1), torch.nn.Linear(1, 1).requires_grad_(False)
    module = torch.nn.ModuleList([layer, frozen])
    learner: Any = SimpleNamespace(_has_copies=True, module={"a_policy": module})
    sent = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: sent.append((tensor, src)))
    DistributedLearner._make_modules_ddp_if_necessary(learner)
    assert learner.module["a_policy"] is module, "no wrapper"
    assert [(tensor.data_ptr(), src) for tensor, src in sent] == [
        (layer.weight.data_ptr(), 0),
        (layer.bias.data_ptr(), 0),
    ]
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(3))
    layer.weight.grad = torch.tensor([[1.0, 2.0]])
    DistributedLearner.add_up_gradients(learner, module)
    assert layer.weight.grad.tolist() == [[4.0, 5.0]]
    assert layer.bias.grad is not None and layer.bias.grad.tolist() == [3.0], "the others may have one"
    assert frozen.weight.grad is None
