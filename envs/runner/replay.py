"""Plays a logged rollout again, token for token, without engine or tools: what the answering role could see.

Belief has two views of a rollout. `history` is the one that belief is scored on (definitions: Belief and
information gain): the answering role's prompt, then all turns and observations in time order. `told` is the
answering role's own context: its decisions and what it was shown of the others'. Both are kept in parts, one
for each turn, so that a turn can be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from envs.data.question import Question
from envs.search.episode import SearchEpisode
from envs.search.task import AnswerTemplates, SearchTask
from envs.search.trajectory import ToolCall

PROMPT = -1
"""`turn` of the part that comes before all turns."""


@dataclass(frozen=True, slots=True)
class LoggedTurn:
    """What a log knows of one turn."""

    agent: str
    context_ids: list[int]
    """What was new in the agent's context before it decided."""
    decision_ids: list[int]
    calls: list[ToolCall] = field(default_factory=list)
    """Its tool calls with their results; `tool` and `arguments` are not read."""


@dataclass(frozen=True, slots=True)
class Part:
    """The ids that one turn adds to a view."""

    turn: int
    ids: list[int]
    instead: list[int] = field(default_factory=list)
    """The ids that stand in their place where the turn is left out: those that open the next turn."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The two views of a rollout after its last gain-bearing turn, in parts."""

    history: list[Part]
    told: list[Part]
    """Without a part for a turn that the answering role neither wrote nor was shown."""
    written: frozenset[int]
    """The turns that the answering role wrote."""
    templates: AnswerTemplates

    @property
    def heard(self) -> list[int]:
        """The turns of others that the answering role was shown."""
        return [part.turn for part in self.told if part.turn != PROMPT and part.turn not in self.written]


class ReplayError(ValueError):
    """The task does not lead where the log says that the rollout went."""


def without(parts: Sequence[Part], turn: int | None = None) -> list[int]:
    """Joins the ids of all parts, but leaves `turn` out."""
    return [i for part in parts for i in (part.instead if part.turn == turn else part.ids)]


def replay(task: SearchTask, question: Question, turns: Sequence[LoggedTurn]) -> Replay:
    """Plays all turns but the final one again.

    Args:
        task: the task that the rollout was made in.
        question: its question.
        turns: all its turns in time order, at least one.

    Raises:
        ReplayError: another agent would have spoken, or seen other tokens, than the log says.
    """
    episode = SearchEpisode(task, question, rollout_id="replay", group_id="replay")
    answering = task.answering_role
    told = _Told(task, question)
    seen = episode.start()
    history = [Part(PROMPT, list(episode.history))]
    for index, turn in enumerate(turns):
        if seen is None or seen.agent != turn.agent:
            wrong = "nobody" if seen is None else seen.agent
            raise ReplayError(f"turn {index} is {turn.agent}'s, but {wrong} would speak")
        if seen.ids != turn.context_ids:
            raise ReplayError(f"turn {index}: {turn.agent} would have seen other tokens")
        if index == len(turns) - 1:
            break
        if turn.agent == answering.name:
            told.write(index, turn.decision_ids)
        start = len(episode.history)
        _take(episode, task, turn, index)
        seen = episode.observe()
        history.append(Part(index, episode.history[start:]))
        if seen is not None and seen.agent == answering.name:
            told.see(index, seen.ids, by_itself=turn.agent == answering.name)
    return Replay(history, told.view(), frozenset(told.written), episode.templates)


def _take(episode: SearchEpisode, task: SearchTask, turn: LoggedTurn, index: int) -> None:
    """Lets the episode decide as the log says, and gives its tool calls their logged results."""
    episode.decide(turn.decision_ids, completed=task.protocol.is_complete(turn.decision_ids))
    calls = episode.rollout.turns[-1].tool_calls
    if len(calls) != len(turn.calls):
        raise ReplayError(f"turn {index} has {len(turn.calls)} tool calls in the log, not {len(calls)}")
    for call, logged in zip(calls, turn.calls, strict=True):
        call.result_text, call.error = logged.result_text, logged.error
        call.document_ids, call.document_scores = logged.document_ids, logged.document_scores


class _Told:
    """The answering role's own context, as it grows."""

    def __init__(self, task: SearchTask, question: Question):
        self._protocol = task.protocol
        self._prompt = task.prompt(task.answering_role, question)
        self._parts = [Part(PROMPT, list(self._prompt))]
        self._last: list[int] = []
        self.written: list[int] = []

    def write(self, turn: int, ids: list[int]) -> None:
        self._parts.append(Part(turn, ids))
        self._last = ids
        self.written.append(turn)

    def see(self, turn: int, ids: list[int], *, by_itself: bool) -> None:
        """Adds what the role is shown of `turn`: of its own turn to that, of another's as a part."""
        # A role that does not speak first gets its prompt with the first that it is shown.
        shown = ids[len(self._prompt) :] if len(self._parts) == 1 else ids
        if by_itself:
            self._parts[-1] = Part(turn, self._parts[-1].ids + shown)
        else:
            self._parts.append(Part(turn, shown, self._reopened()))
        self._last = []

    def view(self) -> list[Part]:
        """The parts, with the next turn open."""
        *before, last = self._parts
        return [*before, replace(last, ids=last.ids + self._reopened())]

    def _reopened(self) -> list[int]:
        """What opens the next turn after the last decision; nothing where one is open."""
        return self._protocol.reopen(self._last) if self._last else []
