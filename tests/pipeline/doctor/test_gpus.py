"""What the doctor says of GPUs: those asked for, those here, and the builds of torch and vLLM."""

from types import SimpleNamespace

import pytest
import torch

from pipeline.doctor import checks
from pipeline.doctor import gpus as module
from pipeline.doctor.checks import cheap_checks
from pipeline.doctor.findings import Finding, Subject
from pipeline.doctor.gpus import gpus
from pipeline.experiment.experiment import load_experiments

ONE = ("num_gpus_per_env_runner=0.5", "num_learners=1", "num_gpus_per_learner=0.5")


def subject(*changes, file="conf/igpo.yaml", **facts):
    experiment = load_experiments(file, list(changes))[0]
    return Subject(experiment, experiment.algorithm_config(), **facts)


@pytest.fixture
def machine(monkeypatch):
    def build(*, count=0, cpu_vllm=False, files=False, trouble="this machine shows none"):
        monkeypatch.setattr(module, "why_no_gpu", lambda: None if count else trouble)
        monkeypatch.setattr(module, "sees_gpu", lambda: count > 0)
        monkeypatch.setattr(module, "has_device_files", lambda: count > 0 or files)
        monkeypatch.setattr(module, "vllm_is_for_cpus", lambda: cpu_vllm)
        card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return build


@pytest.mark.parametrize(
    "facts, changes, status, message",
    [
        ({"cpu_vllm": True}, (), "ok", "the run asks for none"),
        (
            {"cpu_vllm": True},
            ONE,
            "fail",
            "1 GPUs and this machine shows none; run it where GPUs are, or set num_gpus",
        ),
        ({"trouble": "torch 2.13.0+cpu is built for CPUs"}, ONE, "fail", "and torch 2.13.0+cpu is built"),
        ({}, (), "fail", "vLLM is built for GPUs and env runners get none: give the run a GPU"),
        ({}, ("engine.kind=transformers",), "ok", "asks for none"),
        (
            {"count": 1, "cpu_vllm": True},
            (),
            "warn",
            "a GPU is here and the run asks for none; conf",
        ),
        ({"files": True, "cpu_vllm": True}, (), "warn", "and could not use it: this machine shows none"),
        ({"count": 1, "cpu_vllm": True}, ONE, "fail", "(80.0 GiB); the installed vLLM is built for CPUs"),
        ({"count": 1}, ONE, "ok", "NVIDIA H100 80GB HBM3 (80.0 GiB); the run asks for 1"),
        ({"count": 1}, (*ONE, "num_gpus_per_learner=1"), "fail", "asks for 1.5 GPUs and 1 are here: lower"),
        ({"count": 1}, (*ONE, "model_path=my/model"), "warn", "set model_dtype bfloat16"),
        ({"count": 1}, (*ONE, "model_path=my/model", "model_dtype=bfloat16"), "ok", "asks for 1"),
        (
            {"count": 1},
            (*ONE, "num_gpus_per_learner=0"),
            "warn",
            "(80.0 GiB); all for engines: learners train",
        ),
        (
            {"count": 1},
            (*ONE, "num_gpus_per_env_runner=0"),
            "fail",
            "for GPUs and env runners get none: give",
        ),
        (
            {"count": 1},
            (*ONE, "num_gpus_per_env_runner=0", "engine.kind=transformers"),
            "warn",
            "(80.0 GiB); all for learners: engines are on CPUs, or on a GPU that Ray does not count: set",
        ),
        ({"count": 1}, (*ONE, "num_gpus_per_env_runner=0", "num_env_runners=0"), "ok", "asks for 0.5"),
    ],
)
def test_one_sentence_for_each_machine(machine, facts, changes, status, message):
    machine(**facts)
    found = gpus(subject(*changes))
    assert found.status == status and message in found.message


@pytest.mark.parametrize(("pairs", "runner"), [(3, 0.8), (7, 0.8), (8, 0.6)])
def test_pairs_whose_shares_fill_the_gpus_that_are_here(machine, pairs, runner):
    """3 x 0.8 + 3 x 0.2 is above 3 in binary."""
    machine(count=pairs)
    shares = (f"num_gpus_per_env_runner={runner}", f"num_gpus_per_learner={round(1 - runner, 1)}")
    found = gpus(subject(*shares, f"num_env_runners={pairs}", f"num_learners={pairs}"))
    assert (found.status, found.message.partition("; ")[2]) == ("ok", f"the run asks for {pairs}")


def test_the_gpus_of_a_cluster_are_not_looked_at(machine, monkeypatch):
    machine()
    assert gpus(subject(*ONE, joins_cluster=True)).status == "ok"
    for name in ("num_gpus_per_env_runner", "num_gpus_per_learner"):
        found = gpus(subject(*ONE, f"{name}=0", "engine.kind=transformers", joins_cluster=True))
        assert found.status == "warn" and f"set {name} too" in found.message
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "not looked at: those of the cluster" in gpus(subject(*ONE)).message


def test_who_plans_without_the_gpus_still_learns_what_the_model_needs(monkeypatch):
    def says(name, status="ok"):
        return lambda subject: Finding(name, status, "")

    of_the_task = ("task", "words", "answers", "retriever", "prompts")
    for name in ("environment", "proxies", "model", *of_the_task, "memory"):
        monkeypatch.setattr(checks, name, says(name))
    monkeypatch.setattr(checks, "gpus", says("gpus", "fail"))
    assert [found.name for found in cheap_checks(subject())] == [
        "environment", "proxies", "gpus", "model", "memory"
    ]  # fmt: skip
    monkeypatch.setattr(checks, "gpus", says("gpus"))
    assert [found.name for found in cheap_checks(subject())][-1] == "memory"


def test_a_run_for_gpus_that_are_not_here_is_refused_before_anything_else(machine, monkeypatch):
    from rich.console import Console

    from envs.errors import InputError
    from pipeline.training.plan import Plan, check_plan

    machine(cpu_vllm=True)
    monkeypatch.setattr(checks, "model", lambda subject: pytest.fail("the model was looked at"))
    asked = subject(file="conf/qwen2.5_7b.yaml")
    with pytest.raises(InputError, match="the run asks for 8 GPUs and this machine shows none"):
        check_plan(Plan(asked.experiment, asked.config, {}, None), Console(), joins_cluster=False)
