"""The weights after an update are those of plain torch code written from the definitions (`plain_update`)."""

import numpy as np
import pytest
import torch
from igpo_learner_setup import (
    learner_config,
    make_batch,
    make_learner,
    module_spec,
    save_tiny_llama,
    update,
)
from local_ray import local_ray
from plain_update import PlainLoss, plain_lora, plain_policy, plain_update, sequences_of_episodes

from algorithms.igpo.learner.groups import shard_groups
from algorithms.igpo.learner.update_plan import plan_minibatches
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.model.causal_lm import BASE

LR = 1e-3
MANY = {"num_epochs": 2, "num_minibatches": 2}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def ray_of_two_cpus():
    with local_ray(num_cpus=2) as ray:
        yield ray


def weights_of(learner):
    state = learner.module["default_policy"].unwrapped().get_state()
    return {name: array for name, array in state.items() if name != BASE}


def check(state, policy):
    """`state` (name to array, float32) holds the weights of the plain policy (float64) up to rounding.

    That is 0.1% of a step, and more where a gradient was next to 0. Where one is 1e-8 and the largest is
    1e-2, its float32 digits are rounding, and AdamW still takes a whole step by it: 6% of a step was seen.
    """
    assert state.keys() == policy.params.keys()
    for name, expected in policy.params.items():
        got = torch.from_numpy(np.asarray(state[name])).double()
        far, tolerance = (got - expected.detach()).abs(), 1e-3 * LR + policy.slack[name]
        assert (far <= tolerance).all(), f"{name} is off by {(far / tolerance).max():.2g} tolerances"
    tolerances = torch.cat([slack.flatten() for slack in policy.slack.values()])
    assert (tolerances < 0.01 * LR).double().mean() > 0.95  # the check is sharp nearly everywhere


def minibatches(batch, num_sequences, num_epochs=1, num_minibatches=1):
    """The sequences of each update. How a batch is cut is free; all sequences are in each epoch once."""
    cut = plan_minibatches(
        np.arange(num_sequences),
        num_sequences,
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        seed=(0, batch),
    )
    for epoch in range(num_epochs):
        of_epoch = cut[epoch * num_minibatches : (epoch + 1) * num_minibatches]
        assert sorted(np.concatenate(of_epoch)) == list(range(num_sequences))
    return [members.tolist() for members in cut]


@pytest.mark.parametrize("agents", [("searcher",), ("searcher", "reader")])
def test_one_update_of_igpo(llama, agents):
    learner = make_learner(llama, loss=LossSettings(), lr=LR, grad_clip=1.0, tokens_per_micro_batch=60)
    policy, reference = plain_policy(llama, lr=LR), plain_policy(llama, train=False)
    for seed in range(3):  # from the second batch on, the KL and AdamW's moments count
        episodes = make_batch(seed=seed, agents=agents)
        update(learner, episodes)
        plain_update(policy, reference, sequences_of_episodes(episodes), PlainLoss())
        check(weights_of(learner), policy)


CASES = {
    "igpo": (LossSettings(kl_coeff=0.1), PlainLoss(kl_coeff=0.1)),
    "gspo": (
        LossSettings(kl_coeff=0.1, ratio_level="sequence", clip_low=3e-4, clip_high=4e-4),
        PlainLoss(kl_coeff=0.1, ratio_level="sequence", clip_low=3e-4, clip_high=4e-4),
    ),
}


@pytest.mark.parametrize("preset", CASES)
def test_several_updates_of_a_batch_clip_and_pay_the_kl(llama, preset):
    loss, plain_loss = CASES[preset]
    settings = {"preset": preset, "loss": loss, "lr": LR, "grad_clip": 1.0, **MANY}
    learner = make_learner(llama, tokens_per_micro_batch=60, **settings)
    policy, reference = plain_policy(llama, lr=LR), plain_policy(llama, train=False)
    for batch in (1, 2):
        episodes = make_batch(seed=batch, agents=("searcher", "reader"))
        result = update(learner, episodes)["default_policy"]
        sequences = sequences_of_episodes(episodes, with_gains=preset == "igpo")
        plain_update(policy, reference, sequences, plain_loss, minibatches(batch, len(sequences), **MANY))
        check(weights_of(learner), policy)
    assert result["clip_share"].peek() > 0.01 and result["kl"].peek() > 1e-3
    assert result["mismatch_weight_mean"].peek() < 1.9


def test_one_update_of_adapters(llama):
    """LoRA: W + alpha / r B A, and only A and B learn. The reference is W."""
    lora = {"lora": {"rank": 4, "alpha": 6.0, "targets": ["q_proj", "down_proj"]}}
    loss, plain_loss = CASES["igpo"]
    learner = make_learner(llama, model_config=lora, loss=loss, lr=LR, grad_clip=1.0, **MANY)
    adapters = {name: torch.from_numpy(array).double() for name, array in weights_of(learner).items()}
    assert len(adapters) == 8
    policy, reference = plain_lora(llama, adapters, scale=6.0 / 4, lr=LR), plain_policy(llama, train=False)
    for batch in (1, 2, 3):
        episodes = make_batch(seed=batch)
        update(learner, episodes)
        sequences = sequences_of_episodes(episodes)
        plain_update(policy, reference, sequences, plain_loss, minibatches(batch, len(sequences), **MANY))
        check(weights_of(learner), policy)


@pytest.mark.slow
@pytest.mark.parametrize("preset", CASES)
@pytest.mark.parametrize("sharded", [False, True])
def test_two_learners(ray_of_two_cpus, llama, preset, sharded):
    """Each has a copy of the model or half of it (FSDP2)."""
    from ray.rllib.core.learner.training_data import TrainingData

    loss, plain_loss = CASES[preset]
    settings = {"preset": preset, "loss": loss, "lr": LR, "grad_clip": 1.0, "shard_learner": sharded, **MANY}
    config = learner_config(tokens_per_micro_batch=60, **settings).learners(num_learners=2)
    group = config.build_learner_group(rl_module_spec=module_spec({"default_policy": llama}))
    policy, reference = plain_policy(llama, lr=LR), plain_policy(llama, train=False)
    try:
        for batch, groups in ((1, 4), (2, 1), (3, 3)):  # in the second batch one learner has nothing to do
            episodes = make_batch(seed=batch, groups=groups, agents=("searcher", "reader"))
            shards = [ray_of_two_cpus.put(shard) for shard in shard_groups(episodes, 2)]
            group.update(
                training_data=TrainingData(episodes_refs=shards),
                timesteps={"num_env_steps_sampled_lifetime": 100},
                num_epochs=1,
            )
            sequences = sequences_of_episodes(episodes, with_gains=preset == "igpo")
            cut = minibatches(batch, len(sequences), **MANY)
            plain_update(policy, reference, sequences, plain_loss, cut)
            first, other = [result.get() for result in group.foreach_learner(weights_of)]
            check(first, policy)
            if sharded:
                assert other == {}, "the first learner alone keeps the whole model"
            else:
                check(other, policy)
    finally:
        group.shutdown()
