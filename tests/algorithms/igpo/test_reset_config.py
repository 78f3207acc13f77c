"""Another run on the engines of the one before (`IGPO.reset_config`, through Tune's `reset`)."""

import copy

import numpy as np
import pytest

from algorithms.igpo import IGPOConfig
from algorithms.igpo.callbacks import IGPOCallback
from envs.engine.transformers import TransformersEngine

EVENTS = []


class Noted(IGPOCallback):
    """Notes when a run begins and ends."""

    def on_algorithm_init(self, *, algorithm, **kwargs):
        EVENTS.append(f"{algorithm.config.preset} begins")

    def on_stop(self, *, algorithm):
        EVENTS.append("end")


def make_config(preset="igpo", **model):
    world = {"train_questions": 20, "heldout_questions": 5}
    return (
        IGPOConfig()
        .environment("search", env_config={"world": world, "max_turns": 3})
        .rl_module(model_path="tiny", **model)
        .training(preset=preset, lr=1e-3, prompts_per_iteration=2, group_size=2)
        .env_runners(num_env_runners=0, engine={"kind": "transformers"})
    )


def train(algorithm):
    """One iteration: its number, what was sampled at which version, the weights afterwards."""
    result = algorithm.train()
    (record,) = algorithm.records
    decisions = [turn.decision_text for rollout in record.rollouts for turn in rollout.turns]
    state = algorithm.learner_group.get_state(components="learner/rl_module")
    weights = state["learner"]["rl_module"]["default_policy"]
    return result["training_iteration"], record.weights_version, decisions, weights


@pytest.mark.slow
def test_a_reset_algorithm_trains_like_a_new_one(monkeypatch):
    import ray

    loaded, load = [], TransformersEngine.load_weights
    monkeypatch.setattr(
        TransformersEngine,
        "load_weights",
        lambda self, *args, **kw: loaded.append(1) or load(self, *args, **kw),
    )

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        fresh = make_config("grpo").build_algo()
        assert len(loaded) == 1, "RLlib sends no weights of its own"
        expected = train(fresh)
        state = copy.deepcopy(fresh.get_state())
        fresh.train()
        fresh.set_state(state)
        (engine,) = fresh.env_runner.loop.engines.values()
        assert fresh.weights_version == engine.weights_version == 1
        for name, tensor in engine._model.state_dict().items():
            if name in expected[3]:
                np.testing.assert_array_equal(tensor.numpy(), expected[3][name])
        fresh.stop()

        reused = make_config("igpo").callbacks(Noted).build_algo()
        (engine,) = reused.env_runner.loop.engines.values()
        for other in (
            make_config("grpo").callbacks(Noted),
            make_config("grpo").callbacks(Noted).to_dict(),
        ):  # as `igpo study` and as Tune do it
            train(reused)
            assert reused.reset(other)
            assert (reused.iteration, reused.weights_version, reused.records) == (0, 0, [])
            assert reused.config.preset == "grpo" and reused.config._is_frozen
            assert list(reused.env_runner.loop.engines.values()) == [engine] and engine.weights_version == 0
            found = train(reused)
            assert found[:3] == expected[:3]
            for name, array in found[3].items():
                np.testing.assert_array_equal(array, expected[3][name])

        assert not reused.reset(make_config(model_dtype="bfloat16"))
        reused.stop()
        assert ["igpo begins", "end", *["grpo begins", "end"] * 2] == EVENTS
    finally:
        ray.shutdown()
