"""The check of GPUs: what a run asks for, what is here, and what torch and vLLM are built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.engine.accelerator import has_device_files, sees_gpu, vllm_is_for_cpus, why_no_gpu
from envs.engine.models import TINY
from pipeline.doctor.findings import Finding, Subject
from pipeline.estimate.machines import GIB
from pipeline.ray_address import named_cluster

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

NO_GPUS = "num_gpus_per_env_runner and num_gpus_per_learner to 0"
ONE_GPU = "conf/igpo_gpu.yaml shows the settings for one"
RAY_DIGITS = 4
"""Decimals to which Ray counts shares of a resource; 3 x 0.8 + 3 x 0.2 is above 3 in binary."""


def gpus(subject: Subject) -> Finding:
    """Compares the GPUs that env runners and learners ask for with those here, and with each other; advises
    bfloat16 on them.

    The GPUs of a cluster that the run joins are not looked at.
    """
    config = subject.config
    asked = _asked(config)
    if not asked:
        return _without(config)
    if subject.joins_cluster or named_cluster(None) is not None:
        text = f"the run asks for {asked:g}; not looked at: those of the cluster"
        return _of_one_role(config, text) or Finding("gpus", "ok", text)
    trouble = why_no_gpu()
    if trouble is not None:
        advice = f"run it where GPUs are, or set {NO_GPUS}"
        return Finding("gpus", "fail", f"the run asks for {asked:g} GPUs and {trouble}; {advice}")
    import torch

    here = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    text = ", ".join(f"{gpu.name} ({gpu.total_memory / GIB:.1f} GiB)" for gpu in here)
    if asked > len(here):
        lower = "lower num_env_runners, num_learners, or what each of them asks for"
        return Finding("gpus", "fail", f"the run asks for {asked:g} GPUs and {len(here)} are here: {lower}")
    if config.engine_settings.kind == "vllm" and vllm_is_for_cpus():
        advice = "install the extra `gpu` of igpo-rllib"
        return Finding("gpus", "fail", f"{text}; the installed vLLM is built for CPUs: {advice}")
    if one_role := _of_one_role(config, text):
        return one_role
    if config.model_dtype == "float32" and config.model_path not in TINY and torch.cuda.is_bf16_supported():
        advice = "set model_dtype bfloat16, which is several times faster there and takes half the memory"
        return Finding("gpus", "warn", f"{text}; {advice}")
    return Finding("gpus", "ok", f"{text}; the run asks for {asked:g}")


def _asked(config: IGPOConfig) -> float:
    """The GPUs that all env runners and learners take. A learner of number 0 is in the driver's process."""
    runners = (config.num_env_runners or 0) * config.num_gpus_per_env_runner
    return round(runners + max(1, config.num_learners) * config.num_gpus_per_learner, RAY_DIGITS)


def _of_one_role(config: IGPOConfig, text: str) -> Finding | None:
    """What is to be said where env runners ask for GPUs and learners for none, or the other way round."""
    if not config.num_gpus_per_learner:
        advice = f"set num_gpus_per_learner too; {ONE_GPU}"
        return Finding(
            "gpus", "warn", f"{text}; all for engines: learners train on CPUs, far slower: {advice}"
        )
    if config.num_env_runners and not config.num_gpus_per_env_runner:
        advice = f"set num_gpus_per_env_runner too; {ONE_GPU}"
        said = "all for learners: engines are on CPUs, or on a GPU that Ray does not count"
        return _vllm_without(config) or Finding("gpus", "warn", f"{text}; {said}: {advice}")
    return None


def _vllm_without(config: IGPOConfig) -> Finding | None:
    """The failure of a vLLM for GPUs in env runners that get none."""
    if config.engine_settings.kind != "vllm" or vllm_is_for_cpus() or not config.num_env_runners:
        return None
    advice = f"give the run a GPU ({ONE_GPU}), or set engine.kind to transformers"
    return Finding("gpus", "fail", f"the installed vLLM is built for GPUs and env runners get none: {advice}")


def _without(config: IGPOConfig) -> Finding:
    if failure := _vllm_without(config):
        return failure
    if sees_gpu():
        return Finding("gpus", "warn", f"a GPU is here and the run asks for none; {ONE_GPU}")
    if has_device_files():
        return Finding(
            "gpus", "warn", f"a GPU is here, the run asks for none and could not use it: {why_no_gpu()}"
        )
    return Finding("gpus", "ok", "the run asks for none")
