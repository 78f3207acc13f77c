"""Packages that come with vLLM and must be of the same build as torch."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

from envs.engine.accelerator import vllm_is_for_cpus

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
CPU_BUILD = "+cpu"


def foreign_companions() -> str | None:
    """Says which companions of a CPU torch are builds for GPUs and fail to import; None where all is well.

    The package index has GPU builds alone, and vLLM's CPU build asks for them by name. transformers imports
    torchvision where it is installed, and then fails at every model.
    """
    if not _version("torch").endswith(CPU_BUILD):
        return None
    foreign = [name for name in COMPANIONS if (found := _version(name)) and not found.endswith(CPU_BUILD)]
    if "torchvision" not in foreign:
        return None
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        reason = " ".join(str(error).split())
        return (
            f"torchvision is a build for GPUs beside a torch for CPUs and cannot be imported ({reason}): "
            f"`pip uninstall --yes {' '.join(foreign)}` (nothing here needs them), or install with "
            f"--extra-index-url {CPU_WHEELS}"
        )
    return None


def missing_companion() -> str | None:
    """Says that torchvision is missing beside a vLLM for GPUs; None where all is well.

    vLLM 0.32 imports it in the warm-up of its kernels, whatever the model, after the model is loaded.
    """
    if vllm_is_for_cpus() or _version("torchvision"):
        return None
    return (
        f"vLLM {_version('vllm')} for GPUs starts no engine without torchvision, which is not installed: "
        "`make setup GPU=1`, or `pip install torchvision` of the same release as torch"
    )


def _version(package: str) -> str:
    """The installed version; empty where the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
