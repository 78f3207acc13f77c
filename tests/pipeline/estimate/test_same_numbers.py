"""`igpo doctor`, the check before a run and `igpo estimate` say the same memory for each role, on a machine
with H100s.
"""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import pipeline.cli.igpo
from envs.errors import InputError
from pipeline.doctor import checks
from pipeline.doctor import memory as memory_module
from pipeline.doctor.findings import Finding
from pipeline.estimate.machines import GPUS
from pipeline.estimate.model import model_of
from pipeline.experiment.experiment import load_experiments
from pipeline.training.plan import Plan, check_plan

FILES = [
    ("conf/igpo.yaml", ()),
    ("conf/igpo_multi_agent_lora.yaml", ()),
    ("conf/igpo_gpu.yaml", ()),
    ("conf/qwen2.5_3b.yaml", ()),
    ("conf/qwen2.5_3b_one_gpu.yaml", ()),
    ("conf/qwen2.5_7b.yaml", ()),
    ("conf/qwen2.5_7b.yaml", ("offload_optimizer=true",)),
    ("conf/qwen2.5_7b.yaml", ("model_path=Qwen/Qwen3-32B", "engine.tensor_parallel_size=2",
                              "num_gpus_per_env_runner=2", "num_env_runners=2")),
    ("conf/qwen2.5_7b.yaml", ("model_path=meta-llama/Llama-3.3-70B-Instruct", "lora={rank: 16}",
                              "shard_learner=false", "num_learners=1", "num_env_runners=7")),
    ("conf/qwen2.5_7b_lora.yaml", ()),
]  # fmt: skip
ROLES = re.compile(r"engine (\S+) GiB \(.*?\); learner (\S+) GiB")


@pytest.fixture
def h100s(monkeypatch):
    """A machine with H100s, and a doctor who finds nothing wrong before he looks at the memory."""
    card = SimpleNamespace(name="NVIDIA H100", total_memory=GPUS["h100"].memory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(memory_module, "free_memory", lambda: 2**40)
    monkeypatch.setattr("pipeline.experiment.before_start.check_start", lambda experiment: None)
    for name in ("environment", "proxies", "gpus", "words", "answers", "retriever", "prompts"):
        monkeypatch.setattr(checks, name, lambda subject: Finding("", "ok", ""))

    def model(subject):
        subject.model = model_of(subject.config)
        return Finding("model", "ok", "")

    def task(subject):
        subject.task = SimpleNamespace(identity={})
        return Finding("task", "ok", "")

    monkeypatch.setattr(checks, "model", model)
    monkeypatch.setattr(checks, "task", task)


@pytest.mark.parametrize("file, changes", FILES)
def test_three_commands_say_the_same(run, monkeypatch, h100s, file, changes):
    said = []

    def noted(subject):
        said.append(memory_module.memory(subject).message)
        return Finding("memory", "ok", said[-1])

    monkeypatch.setattr(checks, "memory", noted)
    arguments = [file, *(word for change in changes for word in ("--set", change))]
    _, doctor = run("doctor", *arguments, "--quick", app=pipeline.cli.igpo.app)
    (experiment,) = load_experiments(file, list(changes))
    config = experiment.algorithm_config()
    plan = Plan(experiment, config, {}, None)
    try:
        check_plan(plan, Console(file=io.StringIO()), joins_cluster=False)
    except InputError as error:
        pytest.fail(str(error))
    by_doctor, before_run = said
    assert by_doctor == before_run and " ".join(by_doctor.split()) in doctor

    device = "h100" if config.num_gpus_per_env_runner or config.num_gpus_per_learner else "cpu"
    code, page = run("estimate", *arguments, "--device", device, app=pipeline.cli.igpo.app)
    assert code == 0, page
    row = re.search(rf" {device} (\S+) (\S+) ", page)
    assert row is not None, page
    assert ROLES.search(by_doctor).groups() == row.groups(), (by_doctor, page)
