"""What the doctor's cheap checks refuse, and what they must not: a check that is wrong stops a run that would
have worked.
"""

import io
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from envs.errors import InputError
from pipeline.doctor import checks
from pipeline.doctor.checks import Finding, Subject
from pipeline.estimate.capacity import GIB
from pipeline.experiment.experiment import load_experiments
from pipeline.run_directory import provenance
from pipeline.training.plan import Plan, check_plan

SEVEN_BILLION = 7_600_000_000
TWO_GPUS = 2 * 80e9


def subject(*overrides: str) -> Subject:
    experiment = load_experiments("conf/qwen2.5_7b.yaml", ["num_env_runners=1", *overrides])[0]
    return Subject(experiment, experiment.algorithm_config(), parameters=SEVEN_BILLION)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=80e9))


@pytest.mark.parametrize(
    "overrides, bytes_per_parameter",
    [
        ((), 4 + 12 + 2 + 2),  # weights, gradients and moments, reference; the engine's weights
        (("kl_coeff=0",), 4 + 12 + 2),
        (("offload_optimizer=true",), 4 + 4 + 2 + 2),
        (("lora={rank: 16}",), 2 + 2),
        (("num_learners=2",), 2 * (4 + 12 + 2) + 2),
        (("num_learners=2", "shard_learner=true"), 4 + 12 + 2 + 2),
        (
            ("engine.placement=colocated", "num_gpus_per_env_runner=0.5", "num_gpus_per_learner=0.5"),
            4 + 12 + 2,
        ),
        (("num_gpus_per_learner=0",), 2),
    ],
)
def test_memory_is_a_lower_bound(gpus, overrides, bytes_per_parameter):
    found = checks.memory(subject(*overrides))
    needed = SEVEN_BILLION * bytes_per_parameter
    assert f"at least {needed / GIB:.1f} GiB" in found.message
    assert found.status == ("fail" if needed > TWO_GPUS else "warn" if needed > 0.8 * TWO_GPUS else "ok")


@pytest.mark.parametrize("joins_cluster", [False, True])
def test_a_cluster_may_have_the_memory_that_this_machine_lacks(monkeypatch, joins_cluster):
    lack = Finding("memory", "fail", "at least 9 GiB of 1 GiB free memory")
    monkeypatch.setattr("pipeline.training.plan.cheap_checks", lambda subject: iter([lack]))
    monkeypatch.setattr(
        "pipeline.training.plan.Subject", lambda *_: SimpleNamespace(task=SimpleNamespace(identity={}))
    )
    nothing: Any = SimpleNamespace(source="demo.yaml")
    plan, said = Plan(nothing, nothing, {}, None), io.StringIO()
    with nullcontext() if joins_cluster else pytest.raises(InputError, match="demo.yaml: at least 9 GiB"):
        check_plan(plan, Console(file=said), joins_cluster=joins_cluster)
    assert ("warning: memory: at least 9 GiB" in said.getvalue()) is joins_cluster


@pytest.mark.parametrize("kind, status", [("vllm", "fail"), ("transformers", "ok")])
def test_a_machine_without_vllm_may_use_the_other_engine(monkeypatch, kind, status):
    monkeypatch.setattr(provenance, "versions", lambda: {"python": "3.13", "ray": "2"})
    found = checks.environment(subject(f"engine.kind={kind}", "model_dtype=float32"))
    assert found.status == status
    assert status == "ok" or "set `engine.kind: transformers`" in found.message


@pytest.mark.parametrize("able, status", [({"avx512_bf16": False}, "warn"), ({"avx512_bf16": True}, "ok")])
def test_emulated_bfloat16_is_slower_than_float32(monkeypatch, able, status):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    no_gpu = ("num_gpus_per_env_runner=0", "num_gpus_per_learner=0")
    found = checks.environment(subject("model_dtype=bfloat16", *no_gpu))
    assert (found.status, "set model_dtype float32" in found.message) == (status, status == "warn")
    assert checks.environment(subject("model_dtype=float32", *no_gpu)).status == "ok"
    assert checks.environment(subject("model_dtype=bfloat16", "num_gpus_per_env_runner=1")).status == "ok"


def test_facts_about_a_machine_stop_nothing(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # as on macOS

    def hangs(command, **_):
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(
        provenance, "subprocess", SimpleNamespace(run=hangs, TimeoutExpired=subprocess.TimeoutExpired)
    )
    facts = provenance.hardware()
    assert facts["cores"] and facts["gpus"] == [] and provenance.git_commit() is None
