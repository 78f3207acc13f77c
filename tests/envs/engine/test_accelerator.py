"""What an engine says where it cannot start, and what it starts with: before vLLM is imported."""

import importlib.metadata
from types import SimpleNamespace

import pytest
import torch

from envs.engine import accelerator
from envs.engine.accelerator import check_device, vllm_is_for_cpus, why_no_gpu
from envs.engine.base import EngineSettings
from envs.errors import InputError

GIB = 2**30


@pytest.fixture
def machine(monkeypatch):
    """Sets what torch and vLLM say of a machine; without arguments, one without a GPU and CUDA builds."""

    def build(*, gpus=0, vllm="0.32.0", files=None, torch_cuda="13.0", free=80.0, total=80.0, init=None):
        def version(name):
            if name != "vllm" or vllm is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return vllm

        def fail():
            raise init or RuntimeError("No CUDA GPUs are available")

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(accelerator, "has_device_files", lambda: bool(gpus if files is None else files))
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GIB), int(total * GIB)))
        monkeypatch.setattr(torch.cuda, "init", fail)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return build


OLD_DRIVER = RuntimeError(
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
    "downloading and installing a new version"
)


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({}, "this machine shows none"),
        ({"files": True, "torch_cuda": None}, "is built for CPUs: install the extra `gpu` of igpo-rllib"),
        (
            {"files": True, "init": OLD_DRIVER},
            "The NVIDIA driver on your system is too old (found version 11040)",
        ),
        ({"files": True}, "No CUDA GPUs are available"),
    ],
)
def test_why_there_is_no_gpu(machine, facts, reason):
    machine(**facts)
    assert why_no_gpu().endswith(reason)
    machine(gpus=1)
    assert why_no_gpu() is None


def test_hidden_gpus_are_said_to_be_hidden(machine, monkeypatch):
    machine(files=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu() == "CUDA_VISIBLE_DEVICES hides all of them"


@pytest.mark.parametrize("version, expected", [(None, True), ("0.32.0+cpu", True), ("0.32.0", False)])
def test_a_build_of_vllm_is_told_by_its_version(machine, version, expected):
    machine(vllm=version)
    assert vllm_is_for_cpus() is expected


@pytest.mark.parametrize(
    "facts, settings, message",
    [
        ({}, {}, r"vLLM is built for GPUs, and this process has none \(this machine shows none\)"),
        ({"gpus": 1, "vllm": None}, {}, "vLLM is built for CPUs, and this process has a GPU"),
        ({"gpus": 1}, {"tensor_parallel_size": 2}, "is 2 and the env runner has 1 GPUs"),
        (
            {"gpus": 1, "free": 50.0},
            {"gpu_memory_utilization": 0.85},
            "0.85 is 68.0 of 80.0 GiB on the GPU and 50.0 are free, 18.0 too few: lower it below 0.62",
        ),
        ({"vllm": None}, {"kv_cache_gib": 1e5}, "engine.kv_cache_gib is 100000 but only"),
    ],
)
def test_an_engine_that_cannot_start_is_refused(machine, facts, settings, message):
    machine(**facts)
    with pytest.raises(InputError, match=message):
        check_device(EngineSettings(**settings))


@pytest.mark.parametrize("facts", [{"gpus": 2}, {"vllm": None}, {"gpus": 1, "free": 79.0}])
def test_one_that_can_is_not(machine, facts):
    machine(**facts)
    check_device(EngineSettings(kv_cache_gib=0.01))


@pytest.mark.parametrize(
    "gib, on_cpu, expected",
    [(None, True, 2**30), (None, False, None), (0.25, True, 2**28), (0.25, False, 2**28)],
)
def test_a_cache_has_the_size_that_is_given_on_every_device(machine, monkeypatch, gib, on_cpu, expected):
    assert EngineSettings(kv_cache_gib=gib).cache_bytes(on_cpu=on_cpu) == expected
    assert (
        started_with(machine, monkeypatch, gpus=0 if on_cpu else 1, kv_cache_gib=gib)["kv_cache_memory_bytes"]
        == expected
    )
    with pytest.raises(ValueError, match=r"`kv_cache_memory_bytes` can't be .*: set engine\.kv_cache_gib"):
        EngineSettings(vllm={"kv_cache_memory_bytes": 2**30})


def started_with(machine, monkeypatch, *, gpus, dtype="float32", **settings):
    """What vLLM is started with on a machine with `gpus`."""
    import sys

    from envs.engine.vllm import VLLMEngine

    started = {}

    def start(**arguments):
        started.update(arguments)
        return SimpleNamespace(llm_engine=None)

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=start))
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    machine(gpus=gpus, vllm="0.32.0" if gpus else None)
    VLLMEngine("m", EngineSettings(**settings), max_model_len=8, dtype=dtype)
    return started


@pytest.mark.parametrize(
    "gpus, given, expected", [(1, None, False), (1, True, True), (0, None, True), (0, False, False)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_and_precision_follow_the_device(machine, monkeypatch, gpus, given, expected, dtype):
    import os

    started = started_with(machine, monkeypatch, gpus=gpus, dtype=dtype, enforce_eager=given)
    assert started["enforce_eager"] is expected

    # TF32 in the engine's attention would part its log-probs from the learner's.
    assert os.environ.get("TRITON_F32_DEFAULT") == ("ieee" if dtype == "float32" else None)
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)


@pytest.mark.parametrize("given", [None, "1024"])
def test_the_cache_that_grows_an_env_runner_is_small_unless_set(monkeypatch, given):
    import os
    import sys

    from envs.engine.vllm import import_vllm

    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=object))
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    import_vllm("float32")
    assert os.environ[name] == (given or "128")
