"""Engine and learner on one device (`engine.placement: colocated`), and what a learner keeps in
host memory."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from igpo_learner_setup import make_batch, make_learner, save_tiny_llama, update
from ray.rllib.utils.checkpoints import Checkpointable

from algorithms.igpo.algorithm import IGPO
from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner import distributed
from algorithms.igpo.learner import learner as learner_module
from algorithms.igpo.learner.distributed import move_optimizer_state
from algorithms.igpo.loss_settings import LossSettings
from envs.engine.base import NO_WEIGHTS, Generate
from envs.errors import InputError
from envs.runner.env_runner import IGPOEnvRunner

META = torch.device("meta")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def devices_of(learner):
    """Devices of weights, gradients, moments and references."""
    model, reference = (
        learner._hugging_face("default_policy").hf,
        learner._references._models["default_policy"],
    )
    moments = [
        t for o in learner._named_optimizers.values() for state in o.state.values() for t in state.values()
    ]
    assert moments
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return {
        t.device.type
        for t in [*model.state_dict().values(), *reference.state_dict().values(), *moments, *gradients]
    }


def test_nothing_of_the_learner_stays_on_the_device(llama, monkeypatch):
    learner = make_learner(llama, loss=LossSettings(kl_coeff=0.01))
    update(learner, make_batch())
    assert devices_of(learner) == {"cpu"}
    monkeypatch.setattr(
        learner_module, "HOST", META
    )  # where it would be seen: this machine has no other device
    learner.leave_device()
    assert devices_of(learner) == {"meta"}


def test_moments_are_on_the_device_only_while_it_steps(llama, monkeypatch):
    calls = []
    monkeypatch.setattr(
        distributed, "move_optimizer_state", lambda optimizers, device: calls.append(device.type)
    )
    learner = make_learner(llama, offload_optimizer=True)
    monkeypatch.setattr(learner, "apply_gradients", lambda gradients: calls.append("step"))
    monkeypatch.setattr(distributed, "HOST", META)
    update(learner, make_batch())
    assert calls == ["cpu", "step", "meta"]


def test_restored_moments_wait_in_host_memory(llama, monkeypatch, tmp_path):
    saved, restored = (make_learner(llama, offload_optimizer=True) for _ in range(2))
    update(saved, make_batch())
    saved.save_to_path(str(tmp_path))
    monkeypatch.setattr(distributed, "HOST", META)
    restored.restore_from_path(str(tmp_path))
    moments = [
        t for o in restored._named_optimizers.values() for state in o.state.values() for t in state.values()
    ]
    assert {t.device.type for t in moments} == {"meta"}


def test_restored_moments_are_the_learners_own(llama):
    """Two learners of one node are given the same arrays, in Ray's object store."""
    saved, restored = make_learner(llama), make_learner(llama)
    update(saved, make_batch())
    state = saved.get_state()
    restored.set_state(state)
    (given,), (optimizer,) = state["optimizer"].values(), restored._named_optimizers.values()
    for number, slots in enumerate(optimizer.state.values()):
        for name, tensor in slots.items():
            held = given["state"]["state"][number][name]
            np.testing.assert_array_equal(tensor.numpy(), held)
            assert not np.shares_memory(tensor.numpy(), held)


def test_moving_moments_moves_all_of_them():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    move_optimizer_state([optimizer], META)
    assert {name: t.device.type for name, t in optimizer.state[parameter].items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )


def test_what_is_offloaded_is_learnt_all_the_same(llama):
    plain, offloaded = make_learner(llama), make_learner(llama, offload_optimizer=True)
    for seed in range(3):
        update(plain, make_batch(seed=seed))
        offloaded.enter_device()
        update(offloaded, make_batch(seed=seed))
        offloaded.leave_device()
    for name, array in plain.module["default_policy"].get_state().items():
        np.testing.assert_array_equal(offloaded.module["default_policy"].get_state()[name], array)


def make_config(placement, **training):
    return (
        IGPOConfig()
        .environment(
            "search", env_config={"world": {"train_questions": 20, "heldout_questions": 5}, "max_turns": 3}
        )
        .training(
            model_path="tiny",
            lr=1e-3,
            prompts_per_iteration=2,
            group_size=2,
            engine={"kind": "transformers", "placement": placement},
            **training,
        )
        .env_runners(num_env_runners=0)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_env_runners": 2}, "to the same number, not 2 and 0"),
        ({"num_learners": 2}, "to the same number, not 0 and 2"),
        ({"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1}, "set both to 0.5"),
        ({"num_gpus_per_learner": 1}, "set both to 0.5"),
        ({"max_weight_lag": 1, "num_env_runners": 1}, "takes turns, max_weight_lag 1 overlaps"),
    ],
)
def test_what_cannot_share_a_gpu_is_refused(change, message):
    config = make_config("colocated")
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=message):
        config.validate()


def test_a_restored_algorithm_pushes_its_weights_once_and_while_the_learner_has_the_device(monkeypatch):
    """RLlib's own push would go through the driver, to whom sharded learners give nothing, and would wake the
    engine that has just left the device.
    """
    algorithm, order = IGPO.__new__(IGPO), []
    algorithm.env_runner_group = None  # what RLlib's push would use
    algorithm.learner_group = SimpleNamespace(_worker_manager=None)
    algorithm.push_weights = lambda: order.append("push")
    algorithm._weight_push = SimpleNamespace(give_device_to_learner=lambda: order.append("give"))
    monkeypatch.setattr(Checkpointable, "restore_from_path", lambda self, path, **_: order.append("restore"))
    for placement, expected in (("separate", []), ("colocated", ["give"])):
        algorithm.config = make_config(placement)
        algorithm.restore_from_path("checkpoint")
        assert order == [*expected, "restore", "push"]
        order.clear()


def test_rllib_s_own_weights_reach_no_engine():
    """`IGPO.push_weights` alone sends them: they would wake a colocated engine beside the learner."""
    runner, versions = IGPOEnvRunner.__new__(IGPOEnvRunner), []
    runner.config, runner.loop, runner._env_steps_lifetime = make_config("separate"), None, 0
    runner.load_weights = lambda modules, version: versions.append(version)
    runner.set_state({"rl_module": {}, "weights_seq_no": 7, "num_env_steps_sampled_lifetime": 5})
    assert versions == [] and runner._env_steps_lifetime == 5


@pytest.mark.slow
def test_the_engine_sleeps_while_the_learner_updates(tmp_path):
    """Or while it is restored or built anew. And the two placements learn the same."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        moments, decisions = {}, {}
        for placement in ("separate", "colocated"):
            algorithm = make_config(placement).build_algo()
            (engine,) = algorithm.env_runner.loop.engines.values()
            learner = algorithm.learner_group._learner
            order = []

            def note(object_, name, label, order=order):
                function = getattr(object_, name)

                def noted(*args, **kwargs):
                    order.append(label)
                    return function(*args, **kwargs)

                setattr(object_, name, noted)

            note(engine, "sleep", "sleep")
            note(engine, "load_weights", "wake")
            note(learner, "enter_device", "enter")
            note(learner, "leave_device", "leave")
            note(learner, "_possibly_compiled_update", "update")
            algorithm.train()
            turns = {
                "separate": ["update", "wake"],
                "colocated": ["sleep", "enter", "update", "leave", "wake"],
            }
            assert order == turns[placement]
            assert engine.weights_version == 1
            if placement == "colocated":
                engine.sleep()
                assert engine.weights_version == NO_WEIGHTS
                with pytest.raises(RuntimeError, match="no weights yet"):
                    engine.submit(Generate("early", [1], 1, [], 0.0, 0))
                algorithm.push_weights()
                algorithm.save_to_path(str(tmp_path))
                order.clear()
                note(learner, "_set_optimizer_state", "restore")
                algorithm.restore_from_path(str(tmp_path))
                assert order == ["sleep", "enter", "restore", "leave", "wake"]
                order.clear()
                algorithm.set_state(algorithm.get_state())
                assert order == ["sleep", "enter", "restore", "leave", "wake"]
            algorithm.train()
            (optimizer,) = learner._named_optimizers.values()
            moments[placement] = np.concatenate(
                [slots["exp_avg"].flatten().numpy() for slots in optimizer.state.values()]
            )
            decisions[placement] = [
                turn.decision_text for rollout in algorithm.records[0].rollouts for turn in rollout.turns
            ]
            if placement == "colocated":
                order.clear()
                note(algorithm.learner_group, "shutdown", "learner ends")
                assert algorithm.reset_config(algorithm.config)
                assert order == ["sleep", "learner ends", "wake"]
            algorithm.stop()
        # Mean gradients, not weights: AdamW makes whole steps of the rounding in gradients near 0, which no
        # two runs share.
        np.testing.assert_allclose(
            moments["colocated"], moments["separate"], atol=1e-3 * np.abs(moments["separate"]).max()
        )
        assert decisions["colocated"] == decisions["separate"]
    finally:
        ray.shutdown()
