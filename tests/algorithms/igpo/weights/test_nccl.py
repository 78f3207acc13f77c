"""`engine.weight_transfer: nccl`: vLLM's own classes carry the weights from learners to engines; without a
GPU, over gloo.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gloo_transfer import GlooConfig, GlooEnvRunner, GlooLearner, RunnerOfRanks
from igpo_learner_setup import learner_config, module_spec, save_tiny_llama

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.weights.push import WeightPush
from algorithms.igpo.weights.transfer_group import TransferGroup
from envs.engine.base import EngineSettings
from envs.engine.weights import state_to_tensors
from envs.errors import InputError

POLICIES = ("reader", "searcher")


@pytest.mark.parametrize(
    ("engine", "change", "message"),
    [
        ({}, {"num_learners": 0}, "set num_learners to 1 or more, not 0, or use shared_memory"),
        ({}, {"num_gpus_per_learner": 0}, "set num_gpus_per_learner to 1 or more"),
        ({}, {"num_env_runners": 0}, "set num_env_runners to 1 or more"),
        ({}, {"num_gpus_per_env_runner": 0.5}, "set num_gpus_per_env_runner to 1 or more, not 0.5"),
        ({"kind": "transformers"}, {}, "set engine.kind to vllm"),
        (
            {"placement": "colocated"},
            {"num_gpus_per_learner": 0.5, "num_gpus_per_env_runner": 0.5},
            "leave one of them out",
        ),
    ],
)
def test_what_has_no_gpus_of_its_own_is_refused(engine, change, message):
    config = IGPOConfig().environment("search", env_config={}).training(model_path="tiny")
    config.engine = {"weight_transfer": "nccl"}
    gpus = {
        name: 1
        for name in ("num_learners", "num_gpus_per_learner", "num_env_runners", "num_gpus_per_env_runner")
    }
    for name, value in gpus.items():
        setattr(config, name, value)
    config.validate()
    for name, value in ({"engine": config.engine | engine} | change).items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=message):
        config.validate()


class Runners:
    """What the push uses of RLlib's group of env runners."""

    local_env_runner = None

    def __init__(self, runners):
        self.runners = runners

    def foreach_env_runner(self, function, local_env_runner=True, remote_worker_ids=None):
        import ray

        return ray.get([runner.apply.remote(function) for runner in self.runners])


def push_to(runners, learners, *, shard_learner=False, engine_size=1):
    config = SimpleNamespace(
        engine_settings=EngineSettings(weight_transfer="nccl", tensor_parallel_size=engine_size),
        shard_learner=shard_learner,
        num_learners=2,
        policy_ids=list(POLICIES),
    )
    return WeightPush(config, learners, runners)


def test_a_transfer_that_does_not_end_is_one_sentence():
    members = [("a handle", {None})]
    runners = SimpleNamespace(foreach_env_runner=lambda *args, **kwargs: members)
    learners = SimpleNamespace(
        foreach_learner=lambda *args, **kwargs: []
    )  # RLlib leaves out who has not answered in time
    with pytest.raises(
        RuntimeError,
        match="not with all engines after 600 s: an env runner died in the middle, or NCCL cannot",
    ):
        push_to(runners, learners).push(3)
    members.clear()
    assert push_to(runners, learners).push(3) == 0  # all have died: RLlib's restoring brings them weights


def test_what_a_learner_raises_ends_the_push():
    runners = SimpleNamespace(foreach_env_runner=lambda *args, **kwargs: [("a handle", {None})])
    answer = SimpleNamespace(get=lambda: OSError("NCCL is not there"))  # RLlib hands it back like a result
    learners = SimpleNamespace(foreach_learner=lambda *args, **kwargs: [answer])
    with pytest.raises(OSError, match="NCCL is not there"):
        push_to(runners, learners).push(3)


def test_weights_are_complete_before_vllm_reads_them(monkeypatch):
    """It reads them on streams of its own, which do not wait for the learner's."""
    from algorithms.igpo.weights.nccl import WeightSender

    done, device = [], torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    monkeypatch.setattr(torch.accelerator, "device_index", lambda index: nullcontext())
    sender = WeightSender(lambda policy: None, 0, device)
    trainer = SimpleNamespace(send_weights=lambda: done.append("sent"))
    sender._group_name, sender._routes = "one", [(SimpleNamespace(num_bytes=8), SimpleNamespace(), trainer)]
    assert sender.send(SimpleNamespace(name="one"), 3) == 8 and done == [device, "sent"]


@pytest.fixture
def ray():
    import ray

    tests = Path(__file__).resolve().parents[3]
    paths = [tests / "support", tests.parent]
    path = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }  # before `use_gloo` imports vLLM
    variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **settings}
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": variables},
    )
    yield ray
    ray.shutdown()


def learner_group(paths, *, shard_learner):
    config = learner_config(shard_learner=shard_learner)
    config.learners(num_learners=2, learner_class=GlooLearner)
    return config.build_learner_group(rl_module_spec=module_spec(paths, dtype="bfloat16"))


def move_weights(learner):
    """As an update would; the same in all learners."""
    with torch.no_grad():
        for name, parameter in sorted(learner.module["reader"].unwrapped().hf.named_parameters()):
            parameter.mul_(1.5 + len(name) % 3)


def weights_of(learner):
    return {policy: learner.module[policy].unwrapped().get_state(inference_only=True) for policy in POLICIES}


@pytest.mark.slow
@pytest.mark.parametrize("shard_learner", [False, True])
def test_every_process_of_every_engine_gets_the_learners_weights(ray, tmp_path, shard_learner):
    from algorithms.igpo.weights.nccl import Engines

    actors = ray.remote(num_cpus=0)(RunnerOfRanks)
    runners = Runners([actors.remote(2, POLICIES) for _ in range(2)])
    paths = {policy: save_tiny_llama(tmp_path / policy, seed=k) for k, policy in enumerate(POLICIES)}
    learners = learner_group(paths, shard_learner=shard_learner)
    push = push_to(runners, learners, shard_learner=shard_learner, engine_size=2)

    def check(version):
        num_bytes = push.push(version)
        expected = [result.get() for result in learners.foreach_learner(weights_of)][0]
        assert num_bytes == sum(array.nbytes for state in expected.values() for array in state.values())
        for held in ray.get([runner.held.remote() for runner in runners.runners]):
            for policy in POLICIES:
                held_version, models = held[policy]
                assert held_version == version and len(models) == 2
                for model in models:
                    assert all(tensor.dtype is torch.bfloat16 for tensor in model.values())
                    torch.testing.assert_close(model, state_to_tensors(expected[policy]), atol=0, rtol=0)
        return expected["reader"]

    def groups():
        return [
            group
            for names in runners.foreach_env_runner(lambda runner: runner.transfer_groups)
            for group in names
        ]

    try:
        before = check(0)
        first = groups()
        [result.get() for result in learners.foreach_learner(move_weights)]
        after = check(1)
        assert any((before[name] != after[name]).any() for name in before)
        assert groups() == first and len(set(first)) == 1, "the group is formed once"

        ray.kill(runners.runners[1])
        runners.runners[1] = actors.remote(2, POLICIES)
        check(2)
        assert len(set(groups())) == 1 and set(groups()) != set(first), (
            "with a new runner there is a new group"
        )
        ray.kill(runners.runners.pop())
        check(3)

        failing = Engines(TransferGroup("", tuple(runners.runners), POLICIES, 2), "nobody")
        with pytest.raises(
            RuntimeError,
            match=r"start_weight_update failed in an env runner: KeyError: 'nobody'\nTraceback",
        ):
            failing.start_weight_update()
    finally:
        learners.shutdown()


def untied_policy(folder):
    """The embedded policy with an output head of its own: on a CPU vLLM's engine cannot tie it to the
    embedding.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from envs.engine.models import resolve_model

    tiny = resolve_model("tiny")
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_vllm_samples_with_the_weights_that_were_sent_to_it(ray, tmp_path):
    from transformers import AutoModelForCausalLM

    config = (
        GlooConfig()
        .environment(
            "search", env_config={"world": {"train_questions": 40, "heldout_questions": 5}, "max_turns": 3}
        )
        .training(
            model_path=untied_policy(tmp_path / "policy"),
            lr=1e-3,
            prompts_per_iteration=2,
            group_size=2,
            engine={"weight_transfer": "nccl", "kv_cache_gib": 0.25, "max_num_seqs": 16},
            log_tokens=True,
        )
        .env_runners(num_env_runners=1, env_runner_cls=GlooEnvRunner)
        .learners(num_learners=1, learner_class=GlooLearner)
    )
    algorithm = config.build_algo()

    def iterate():
        """Trains; then the engines' log-probs of what they sampled are those of plain transformers with the
        same weights.
        """
        algorithm.export_hf(tmp_path / "hf")
        metrics = algorithm.train()["igpo"]
        assert metrics["logp_gap_mean"] < 1e-4 and metrics["weight_lag"] == 0
        assert metrics["pushed_mib"] > 1 and metrics["seconds_push"] > 0
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf" / "default_policy", dtype=torch.float32)
        contexts = {}
        for (rollout_id, _), turn in sorted(algorithm.records[0].tokens.items()):
            context = [*contexts.get(rollout_id, []), *turn.context_ids_C.tolist()]
            decision = turn.decision_ids_L.tolist()
            contexts[rollout_id] = context + decision
            with torch.no_grad():
                logp = (
                    model(torch.tensor([context + decision])).logits[0, len(context) - 1 : -1].log_softmax(-1)
                )
            expected = logp.gather(-1, torch.tensor(decision)[:, None])[:, 0].numpy()
            np.testing.assert_allclose(turn.sampler_logp_L, expected, atol=1e-4)

    def held():
        report = lambda runner: (runner.weights_version, runner.loop.engines["default_policy"].transfer_group)  # noqa: E731
        (version_and_group,) = algorithm.env_runner_group.foreach_env_runner(report)
        return version_and_group

    try:
        iterate()
        iterate()
        version, group = held()
        assert version == 2 and group is not None

        # The runner dies: it comes back through shared memory, and into a new group with the next push.
        ray.kill(algorithm.env_runner_group._worker_manager.actors()[1], no_restart=False)
        iterate()
        version, new_group = held()
        assert version == 3 and new_group not in (None, group)
        iterate()
        assert held() == (4, new_group)
    finally:
        algorithm.stop()
