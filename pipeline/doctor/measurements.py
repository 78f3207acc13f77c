"""Measurements on held-out questions: recall of the retriever, belief and format of the policy.

Nothing here fails a run unless something breaks. A warning means slow learning: a retriever that does not
find the gold documents, belief that evidence does not move, a policy that cannot yet write the format.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from envs.data.question import Question
from envs.errors import InputError
from envs.retrieval.base import RetrieverError
from envs.search.trajectory import ActionKind
from pipeline.doctor.findings import Finding, Subject
from pipeline.doctor.variety import variety
from pipeline.evaluation.saved_policy import Policy, start_policy

if TYPE_CHECKING:
    from envs.runner.episode_record import EpisodeRecord
    from envs.search.episode import SearchEpisode
    from envs.search.task import SearchTask

SAMPLE = 64
"""Questions that a measurement takes."""
BELIEF_WITH = 0.5
"""With gold evidence, mean belief in the gold answer should be at least this, or have risen."""
BELIEF_RISE = 0.2
"""By at least this."""
BELIEF_WITHOUT = 0.3
"""Without it, it should be at most this."""
VALID_TURNS = 0.6
"""At least this share of first turns should parse."""


def expensive_checks(subject: Subject) -> Iterator[Finding]:
    """Measures recall, then starts the rollout engine with the policy's weights for belief and format."""
    assert subject.task is not None, "the cheap checks come first"
    yield recall(subject.task)
    try:
        policy = start_policy(subject.config, str(subject.config.model_path))
    except InputError as error:
        yield Finding("engine", "fail", str(error))
        return
    yield belief(policy)
    yield format_validity(policy)
    yield variety(policy)


def recall(task: SearchTask) -> Finding:
    """Measures how much of the gold evidence the retriever finds with the question as its query."""
    questions = [question for question in task.heldout_questions if question.gold_document_ids][:SAMPLE]
    if not questions:
        return Finding(
            "retrieval",
            "ok",
            f"{task.settings.retriever.kind}; gold documents are not known for these questions",
        )
    top_k = task.settings.retriever.top_k
    try:
        hits = task.retriever.search([question.text for question in questions], top_k)
    except RetrieverError as error:
        return Finding("retrieval", "fail", f"retriever `{task.settings.retriever.kind}` broke off: {error}")
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
        return Finding(
            "retrieval",
            "warn",
            f"{text}: raise retriever.top_k or check that questions and corpus belong together",
        )
    return Finding("retrieval", "ok", text)


def belief(policy: Policy) -> Finding:
    """Measures mean belief in the gold answer after the prompt alone, and with the gold documents shown."""
    from envs.runner.belief import BeliefQuery
    from envs.search.environment import SearchEnv

    task = policy.task
    known = (question for question in _playable(task) if question.gold_document_ids)
    questions = list(islice((q for q in known if task.answer_templates(q).golds_K), SAMPLE))
    if not questions:
        return Finding("belief", "ok", "not measured: gold documents are not known for these questions")
    if task.corpus is None:
        return Finding("belief", "ok", "not measured: the documents are at the server alone (corpus: remote)")
    searching = {role.name for role in task.settings.roles if "search" in role.actions}
    queries = []
    for record in _rollouts(policy, questions, stream=-3, temperature=0.0):
        question = record.rollout.question
        episode = SearchEnv(policy.task).begin(
            question, rollout_id="doctor", group_id="doctor", split="heldout"
        )
        before = list(episode.history)
        decision = _play_to_first_search(episode, record, searching)
        evidence = list(episode.history)
        for document_id in question.gold_document_ids:
            shown = policy.task.corpus.by_id(document_id).contents
            observation = policy.task.protocol.observation(
                shown,
                decision_ids=decision,
                sender="tool",
                max_tokens=policy.task.settings.max_observation_tokens,
            )
            evidence += [*decision, *observation.ids]
        if len(evidence) + episode.templates.longest > policy.task.settings.max_context_tokens:
            continue
        contexts = [np.asarray(context, dtype=np.int32) for context in (before, evidence)]
        queries.append(BeliefQuery(contexts, episode.templates.suffixes_K))
    if not queries:
        return Finding(
            "belief", "warn", "not measured: the gold documents do not fit into max_context_tokens"
        )
    low, high = np.mean(policy.beliefs(queries), axis=0).tolist()
    text = (
        f"in the gold answer {low:.3f} before and {high:.3f} with the gold documents "
        f"({len(queries)} questions)"
    )
    if high < BELIEF_WITH and high - low < BELIEF_RISE:
        return Finding(
            "belief",
            "warn",
            f"{text}: below {BELIEF_WITH} with evidence, and a rise below {BELIEF_RISE}: gains will be weak; "
            "warm the policy up",
        )
    if low > BELIEF_WITHOUT:
        return Finding(
            "belief",
            "warn",
            f"{text}: above {BELIEF_WITHOUT} without evidence, the policy knows the answers already",
        )
    return Finding("belief", "ok", text)


def format_validity(policy: Policy) -> Finding:
    """Measures the share of sampled first turns that parse, and of rollouts that answer."""
    questions = list(islice(_playable(policy.task), SAMPLE))
    if not questions:
        return Finding("format", "warn", "not measured: no held-out prompt leaves room for a decision")
    rollouts = [record.rollout for record in _rollouts(policy, questions, stream=-2, temperature=1.0)]
    bad = (ActionKind.MALFORMED, ActionKind.CUT_OFF)
    valid = float(np.mean([rollout.turns[0].action not in bad for rollout in rollouts]))
    answered = float(np.mean([rollout.answer is not None for rollout in rollouts]))
    text = (
        f"{valid:.0%} of first turns parse, {answered:.0%} of rollouts answer "
        f"({len(rollouts)} at temperature 1)"
    )
    if valid < VALID_TURNS:
        return Finding(
            "format",
            "warn",
            f"{text}: below {VALID_TURNS:.0%}; try another protocol, an example in the prompt, or "
            "max_turn_tokens",
        )
    return Finding("format", "ok", text)


def _playable(task: SearchTask) -> Iterator[Question]:
    """The held-out questions whose prompt leaves room for a decision."""
    return (question for question in task.heldout_questions if task.room(question) >= 1)


def _play_to_first_search(episode: SearchEpisode, record: EpisodeRecord, searching: set[str]) -> list[int]:
    """Plays the turns of `record` up to the first of a role that may search, and returns that decision, since
    evidence follows a decision that this policy would write; the last one where no such role spoke.
    """
    turns, decision = record.rollout.turns, []
    written = {agent: iter(record.decisions(agent)) for agent in {turn.agent for turn in turns}}
    episode.start()
    for turn in turns:
        decision = next(written[turn.agent]).tolist()
        if turn.agent in searching or turn is turns[-1]:
            break
        episode.decide(decision, completed=not turn.is_cut_off)
        episode.observe()
    return decision


def _rollouts(
    policy: Policy, questions: list[Question], *, stream: int, temperature: float
) -> list[EpisodeRecord]:
    """Returns a rollout of each question. `stream` tells the seeds of one check from those of another."""
    from envs.runner.job import RolloutJob

    jobs = [
        RolloutJob(
            question,
            f"doctor/{n}",
            f"doctor/{n}",
            (0, stream, n, 0),
            split="heldout",
            temperature=temperature,
            score_beliefs=False,
        )
        for n, question in enumerate(questions)
    ]
    return policy.loop.run(jobs)[0]
