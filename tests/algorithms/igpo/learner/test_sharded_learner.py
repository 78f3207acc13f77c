"""Two learners that share one model (FSDP2 over gloo) do what one does; checkpoints and exports are whole."""

import gc
import time

import numpy as np
import pytest
import torch
from igpo_learner_setup import (
    TOKENS,
    learner_config,
    make_batch,
    make_learner,
    module_spec,
    save_tiny_llama,
    update,
)
from local_ray import local_ray

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner.groups import shard_groups
from algorithms.igpo.learner.references import References
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.model.causal_lm import HFCausalLM, load_causal_lm
from algorithms.igpo.model.fsdp import first_reads, full_tensor, shard
from envs.engine.weights import state_to_tensors
from envs.errors import InputError

SETTINGS = {
    "loss": LossSettings(kl_coeff=0.01),
    "tokens_per_micro_batch": 60,
    "num_minibatches": 2,
    "lr": 1e-4,
    "grad_clip": 0.1,
}


@pytest.fixture(scope="module")
def ray_of_two_cpus():
    with local_ray(num_cpus=2) as ray:
        yield ray


def learner_group(paths, num_learners=2, *, sharded=True, offloaded=False):
    of_each = {"shard_learner": sharded, "offload_optimizer": offloaded}
    config = learner_config(**SETTINGS, **of_each).learners(num_learners=num_learners)
    return config.build_learner_group(rl_module_spec=module_spec(paths))


def of_each(group, function):
    return [result.get() for result in group.foreach_learner(function)]


def module_of(learner):
    return learner.module["default_policy"]


def gathered_by(group):
    """The first learner's whole state. The others keep nothing of it."""
    first, *others = of_each(group, lambda learner: learner.get_state(gather=True))
    for other in others:
        assert other["rl_module"] == {"default_policy": {}}
        (optimizer,) = other["optimizer"].values()
        for moments in optimizer["state"]["state"].values():
            assert moments["exp_avg"].size == moments["exp_avg_sq"].size == 0
    return first


def watch_restoring(learner):
    """Notes in `learner.restored` when it begins and ends to restore its weights, of which it makes half a
    second.
    """
    module = module_of(learner)
    restore = module.set_state

    def watched(state):
        began = time.monotonic()
        time.sleep(0.5)
        restore(state)
        learner.restored = began, time.monotonic()

    module.set_state = watched


def bytes_held():
    """Bytes of all tensors of this process."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    tensors = [getattr(one, "_local_tensor", one) for one in tensors]
    held = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors if not t.is_meta}
    return sum(held.values())


def bytes_of(model):
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def load_sharded(rank, paths, folder):
    """What one of two learners does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=2)
    cpu = torch.device("cpu")
    for path in paths:
        load_policy_and_reference(rank, path, cpu)
    error = OSError if rank == 0 else RuntimeError
    with pytest.raises(error, match="nowhere|another learner could not"), first_reads(cpu):
        if rank == 0:
            load_causal_lm(f"{folder}/nowhere", torch.float32)
    torch.distributed.destroy_process_group()


def load_policy_and_reference(rank, path, cpu):
    """Loads them as learners do, counts their bytes, and compares them with the whole model."""
    before = bytes_held()
    with first_reads(cpu):
        module = HFCausalLM(observation_space=TOKENS, action_space=TOKENS, model_config={"path": path})
    read = bytes_held() - before
    shard(module, cpu)
    held = bytes_held() - before
    whole = load_causal_lm(path, torch.float32)
    assert read == (0 if rank else bytes_of(whole))
    assert held < 0.6 * bytes_of(whole)
    assert_equal(module.hf, whole)
    assert (module.hf.lm_head.weight is module.hf.model.embed_tokens.weight) == path.endswith("/tied")

    module.compute_dtype = torch.bfloat16
    before = bytes_held()
    references = References({"default_policy": module}, cpu, sharded=True)
    (reference,) = references.own_models
    held, whole = bytes_held() - before, load_causal_lm(path, torch.bfloat16)
    layers = bytes_of(whole.model.layers)
    assert held < bytes_of(whole) - 0.4 * layers, "embedding and head are whole, layers are shared"
    assert_equal(reference, whole)


def assert_equal(sharded, whole):
    """Parameters and buffers are the same, bit for bit."""
    expected = dict([*whole.named_parameters(), *whole.named_buffers()])
    held = dict([*sharded.named_parameters(), *sharded.named_buffers()])
    assert held.keys() == expected.keys()
    for name, tensor in held.items():
        full = full_tensor(tensor.detach())
        assert full.dtype == expected[name].dtype and torch.equal(full, expected[name]), name


@pytest.mark.slow
def test_the_first_learner_alone_reads_the_model(tmp_path):
    paths = [
        save_tiny_llama(tmp_path / "tied", hidden=128),
        save_tiny_llama(tmp_path / "untied", tied=False, hidden=128, seed=1),
    ]
    torch.multiprocessing.spawn(load_sharded, (paths, str(tmp_path)), nprocs=2)


@pytest.mark.slow
def test_three_steps_equal_those_of_one_learner(ray_of_two_cpus, tmp_path):
    from ray.rllib.core.learner.training_data import TrainingData

    ray = ray_of_two_cpus
    paths = {"default_policy": save_tiny_llama(tmp_path / "llama")}
    one, group = make_learner(paths, **SETTINGS), learner_group(paths)
    restored = make_learner(paths, **SETTINGS)

    def step(seed, groups):
        episodes = make_batch(groups=groups, seed=seed, agents=("searcher", "reader"))
        alone = update(one, episodes)["default_policy"]
        shards = [ray.put(shard) for shard in shard_groups(episodes, 2)]
        data, timesteps = TrainingData(episodes_refs=shards), {"num_env_steps_sampled_lifetime": 100}
        for result in group.update(training_data=data, timesteps=timesteps):
            for name in ("loss", "kl", "grad_norm", "logp_gap_mean", "tokens"):
                assert result["default_policy"][name].peek() == pytest.approx(
                    alone[name].peek(), abs=1e-5, rel=1e-5
                ), name
        return episodes

    def check(learner=one):
        expected = learner.module["default_policy"].get_state()
        held = gathered_by(group)["rl_module"]["default_policy"]
        assert held.keys() == expected.keys()
        for name, array in held.items():
            np.testing.assert_allclose(array, expected[name], atol=1e-5)

    try:
        held = of_each(
            group, lambda learner: sum(p.to_local().numel() for p in module_of(learner).parameters())
        )
        total = sum(p.numel() for p in one.module["default_policy"].parameters())
        assert sum(held) == total and max(held) < 0.6 * total, "each learner holds its half"
        assert of_each(group, lambda learner: learner._staged) == [None, None], "no copy waits"
        step(1, groups=5)
        step(2, groups=1)  # one learner has nothing to do
        of_each(group, lambda learner: learner.stage_state())
        group.save_to_path(str(tmp_path / "checkpoint"))
        last = step(3, groups=4)
        check()

        # The checkpoint of two learners goes on with one.
        restored.restore_from_path(str(tmp_path / "checkpoint" / "learner"))
        update(restored, last)
        check(restored)

        # And on the shards themselves, which take turns to read it.
        of_each(group, watch_restoring)
        group.restore_from_path(str(tmp_path / "checkpoint"))
        for result in group.update(
            training_data=TrainingData(episodes_refs=[ray.put(shard) for shard in shard_groups(last, 2)]),
            timesteps={"num_env_steps_sampled_lifetime": 100},
        ):
            assert result["default_policy"]["tokens"].peek() > 0
        check()
        (_, first_ended), (second_began, _) = sorted(of_each(group, lambda learner: learner.restored))
        assert first_ended <= second_began

        folder = str(tmp_path / "hf")
        of_each(
            group,
            lambda learner: learner.module["default_policy"].save_pretrained(
                None if learner._learner_index else folder
            ),
        )
        from transformers import AutoModelForCausalLM

        exported = dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())
        for name, tensor in state_to_tensors(one.module["default_policy"].get_state()).items():
            torch.testing.assert_close(exported[name].detach(), tensor, atol=1e-5, rtol=0)
    finally:
        group.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
def test_a_checkpoint_goes_on_with_another_number_of_learners(ray_of_two_cpus, tmp_path, sharded):
    """Weights and AdamW's moments of two learners are restored into one, and those of one into two.

    Moments of shards wait in host memory.
    """
    from ray.rllib.core.learner.training_data import TrainingData

    paths = {"default_policy": save_tiny_llama(tmp_path / "llama")}
    never_saved = make_learner(paths, **SETTINGS)
    one, two = (
        learner_group(paths, 0, sharded=False),
        learner_group(paths, sharded=sharded, offloaded=sharded),
    )
    batches = [make_batch(groups=4, seed=seed) for seed in range(4)]

    def step_two(episodes):
        shards = [ray_of_two_cpus.put(shard) for shard in shard_groups(episodes, 2)]
        two.update(
            training_data=TrainingData(episodes_refs=shards),
            timesteps={"num_env_steps_sampled_lifetime": 100},
            num_epochs=1,
        )

    def save(group, name):
        if group is two and sharded:
            of_each(group, lambda learner: learner.stage_state())
        group.save_to_path(str(tmp_path / name))

    def check(state):
        """Both moments and the weights are those of the learner that was never saved."""
        expected = never_saved.get_state()
        for name, array in expected["rl_module"]["default_policy"].items():
            np.testing.assert_allclose(state["rl_module"]["default_policy"][name], array, atol=1e-5)
        ((_, optimizer),) = expected["optimizer"].items()
        ((_, other),) = state["optimizer"].items()
        for index, moments in optimizer["state"]["state"].items():
            for name, moment in moments.items():
                np.testing.assert_allclose(other["state"]["state"][index][name], moment, atol=1e-5)

    try:
        for episodes in batches[:2]:
            update(never_saved, episodes)
            step_two(episodes)
        save(two, "of_two")
        one.restore_from_path(str(tmp_path / "of_two"))
        check(one._learner.get_state())
        update(never_saved, batches[2])
        update(one._learner, batches[2])
        check(one._learner.get_state())
        save(one, "of_one")
        two.restore_from_path(str(tmp_path / "of_one"))
        update(never_saved, batches[3])
        step_two(batches[3])
        whole = [gathered_by(two)] if sharded else of_each(two, lambda learner: learner.get_state())
        for state in whole:
            check(state)
    finally:
        one.shutdown()
        two.shutdown()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_learners": 1}, "set num_learners to 2 or more"),
        ({"lora": {}}, "cannot be combined with lora"),
        ({"grad_clip_by": "value"}, "clips gradients by global_norm"),
        ({"belief_method": "tree"}, "set belief_method to vllm_prefix"),
    ],
)
def test_what_sharding_cannot_do_is_refused(change, message):
    config = IGPOConfig().environment("search", env_config={}).training(model_path="tiny")
    for name, value in {"num_learners": 2, "shard_learner": True, **change}.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=message):
        config.validate()
