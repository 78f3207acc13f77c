"""Plays demonstrations through the real environment and turns them into rows to learn from.

The rows hold, token for token, what reinforcement learning will show: the protocol's prompt and the tools'
real results, cut at the same length. Only decisions are learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from algorithms.igpo.learner.token_batch import Row
from envs.data.answer_metrics import normalise_paper
from envs.data.questions import resolve_gold_documents
from envs.demonstrations.demonstration import Demonstration
from envs.errors import InputError
from envs.search.episode import SearchEpisode
from envs.search.protocols.base import Action
from envs.search.task import SearchTask
from envs.search.trajectory import ActionKind


def play_all(task: SearchTask, demonstrations: Sequence[Demonstration]) -> tuple[list[Row], Counter[str]]:
    """Returns the rows of the demonstrations that can be played, and {reason: how many cannot}.

    Raises:
        InputError: several roles, no `search` among the tools, a search that failed, or no demonstration can
            be played.
    """
    if len(task.settings.roles) > 1:
        raise InputError(
            "demonstrations are played by one role: give an experiment with a single one in env_config.roles"
        )
    if "search" not in task.settings.tools:
        raise InputError("demonstrations call the tool `search`: add it to env_config.tools")
    questions = resolve_gold_documents(
        [demonstration.question for demonstration in demonstrations], task.corpus
    )
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    for demonstration, question in zip(demonstrations, questions, strict=True):
        played = _play(task, replace(demonstration, question=question))
        if isinstance(played, str):
            dropped[played] += 1
        else:
            played.sequence_id = len(rows)
            played.weight = 1.0
            rows.append(played)
    if not rows:
        reasons = ", ".join(f"{count}: {reason}" for reason, count in dropped.most_common())
        raise InputError(f"none of the {len(demonstrations)} demonstrations can be played ({reasons})")
    return rows, dropped


def _play(task: SearchTask, demonstration: Demonstration) -> Row | str:
    """Returns the row, or the reason why there is none."""
    question, protocol = demonstration.question, task.protocol
    answer = question.golds[0]
    episode = SearchEpisode(task, question, rollout_id=question.id, group_id=question.id)
    seen = episode.start()
    if seen is None:
        return "the question leaves no room in max_context_tokens"
    row = Row()
    row.append(np.asarray(seen.ids), decision=False)
    found, shown = "", ""
    searches = [
        Action(ActionKind.TOOL, tool="search", arguments={"query": query}) for query in demonstration.searches
    ]
    for action in (*searches, Action(ActionKind.ANSWER, text=answer)):
        if seen is None:
            return "it takes more than max_turns or max_context_tokens"
        ids = protocol.decision(action)
        if len(ids) > episode.max_decision_tokens:
            return "a decision is longer than max_turn_tokens"
        if action.kind is ActionKind.ANSWER and _has(found, answer) and not _has(shown, answer):
            return "the answer is cut off by max_observation_tokens"
        row.append(np.asarray(ids), decision=True)
        for call in episode.decide(ids, completed=True):
            if task.tools(call).failed:
                raise InputError(f"the demonstration of {question.id} could not be played: {call.error}")
            found += f" {call.result_text}"
        turn = episode.rollout.turns[-1]
        if turn.action is not action.kind:
            return f"the protocol does not read its decision as {action.kind}"
        seen = episode.observe()
        if seen is not None:
            row.append(np.asarray(seen.ids), decision=False)
            shown += f" {protocol.text(seen.ids)}"
    return row


def _has(text: str, answer: str) -> bool:
    return f" {normalise_paper(answer)} " in f" {normalise_paper(text)} "
