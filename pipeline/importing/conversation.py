"""Reads rollouts that another framework wrote: one conversation a record, in the form of chat messages.

    {"messages": [{"role": "user", "content": "Who wrote Dune?"},
                  {"role": "assistant", "content": "<search>Dune novel</search>"},
                  {"role": "user", "content": "Dune is a 1965 novel by Frank Herbert."},
                  {"role": "assistant", "content": "<answer>Frank Herbert</answer>"}],
     "golden_answers": ["Frank Herbert"], "reward": 1.0, "group": "q17", "step": 3}

Everything before the first message of the assistant is the prompt, and so is all of `prompt` where
`completion` is given, or the first `prompt_messages` messages. Each later message of the assistant is a turn;
what follows it up to the next one is the turn's observation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.data.question import Question
from envs.errors import InputError
from envs.search.trajectory import Termination
from pipeline.importing.fields import renamed
from pipeline.importing.files import OnBad, read_files
from pipeline.importing.frameworks import with_messages
from pipeline.importing.record import GROUPS, IDS, Record

UNKNOWN_STEP = -1


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message of the assistant, and the messages that answer it."""

    decision: dict[str, Any]
    observations: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One rollout, as it was written.

    Attributes:
        where: its place, such as "file:line".
        id: name of the rollout, unique within its step.
        group: name of its group: the rollouts of one prompt in one step.
        step: the training iteration, from 1.
        question: the question, with its gold answers.
        prompt: the messages before the first turn.
        exchanges: the turns, at least one.
        tools: schemas that the chat template showed; None where none are said.
        reward: the outcome; None where none is said.
        termination: how the rollout ended; None where that is not said.
        sources: the field that gave each part, empty where none did (`Record.sources`).
        fields: names of the record's fields.
    """

    where: str
    id: str
    group: str
    step: int
    question: Question
    prompt: list[dict[str, Any]]
    exchanges: list[Exchange]
    tools: list[Any] | None
    reward: float | None
    termination: Termination | None
    sources: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()

    def messages(self, turns: int) -> list[dict[str, Any]]:
        """The messages up to the end of the first `turns` turns."""
        exchanges = self.exchanges[:turns]
        return self.prompt + [m for one in exchanges for m in (one.decision, *one.observations)]


def read_conversations(
    source: str | Path, on_bad: OnBad | None = None, names: Mapping[str, str] | None = None
) -> list[Conversation]:
    """Reads all rollouts of a file (JSONL, JSON or Parquet), or of a folder or `FOLDER@SPLIT`.

    Steps that count from 0 are counted from 1; where no record has a step, all are of step 1. The step begins
    the names of its groups.

    Args:
        source: the file or folder.
        on_bad: called with the error of each record that cannot be read, which is left out; None: all records
            must be good.
        names: our names of fields with those that the records have (`pipeline.importing.fields`).

    Raises:
        InputError: there are none, one cannot be read, only some have a step, a group has several questions,
            or two rollouts of a step have one id.
    """
    bad: list[InputError] = []
    found = list(_read(source, names or {}, bad.append))
    if bad and not found:
        raise InputError(f"{bad[0]}" + f" (all {len(bad)} records are bad)" * (len(bad) > 1))
    if on_bad is not None:
        for error in bad:
            on_bad(error)
    elif bad:
        total = len(bad) + len(found)
        raise InputError(f"{bad[0]} ({len(bad)} of {total} records are bad: `--skip-bad` reads the others)")
    if not found:
        raise InputError(f"{source}: it holds no rollout")
    first = min(one.step for one in found)
    if first == UNKNOWN_STEP and any(one.step != first for one in found):
        raise InputError(f"{source}: some rollouts have a step and some none: give each a step, or none")
    shift = {UNKNOWN_STEP: 2, 0: 1}.get(first, 0)
    members: Counter[str] = Counter()
    conversations = []
    for one in found:
        group = f"{one.step + shift:06d}/{one.group}"
        name = one.id or f"{group}/{members[group]}"
        members[group] += 1
        conversations.append(replace(one, id=name, group=group, step=one.step + shift))
    _check_groups(conversations)
    (step, name), times = Counter((one.step, one.id) for one in conversations).most_common(1)[0]
    if times > 1:
        raise InputError(f"{source}: {times} rollouts of step {step} have the id {name!r}: give each its own")
    return conversations


def _check_groups(conversations: list[Conversation]) -> None:
    """Raises InputError where a group holds rollouts of different questions."""
    first_of: dict[str, Conversation] = {}
    for one in conversations:
        first = first_of.setdefault(one.group, one)
        if (first.question.text, first.question.golds) != (one.question.text, one.question.golds):
            raise InputError(
                f"{one.where}: its group {one.group.partition('/')[2]!r} has another question or gold answer "
                f"at {first.where}: a group is of one question"
            )


def _read(source: str | Path, names: Mapping[str, str], on_bad: OnBad) -> Iterator[Conversation]:
    """The conversations that can be read."""
    data_source, records = read_files(source, on_bad)
    for where, fields in records:
        try:
            known, origins = with_messages(renamed(fields, names, where), where, names)
            one = _conversation(Record(where, known, {**origins, **names}), data_source)
        except InputError as error:
            on_bad(error)
            continue
        yield one


def _conversation(record: Record, data_source: str) -> Conversation:
    """A conversation with step, group and id as they are written; an id that is not is empty."""
    prompt, exchanges = _exchanges(*record.messages(), record.where)
    question = record.question(prompt, data_source)
    return Conversation(
        where=record.where,
        id=record.name(IDS),
        group=record.name(GROUPS) or question.id,
        step=record.step(UNKNOWN_STEP),
        question=question,
        prompt=prompt,
        exchanges=exchanges,
        tools=record.tools(),
        reward=record.reward(),
        termination=record.termination(),
        sources=record.sources(),
        fields=record.names,
    )


def _exchanges(
    messages: list[dict[str, Any]], in_prompt: int, where: str
) -> tuple[list[dict[str, Any]], list[Exchange]]:
    """The prompt, of at least `in_prompt` messages, and a turn for each later message of the assistant.

    Raises:
        InputError: there is no prompt or no turn, or a turn that is not the last says and calls nothing.
    """
    begin = [k for k in range(in_prompt, len(messages)) if messages[k]["role"] == "assistant"]
    if not begin or begin[0] == 0:
        lack = "begins with the assistant: give its prompt"
        if not begin:
            lack = f"has no message of the assistant{' behind its prompt' * bool(in_prompt)}"
        raise InputError(f"{where}: the conversation {lack}")
    for k in begin[:-1]:
        if not any(messages[k].get(part) for part in ("content", "tool_calls", "reasoning_content")):
            raise InputError(
                f"{where}: message {k} of the assistant has neither text nor `tool_calls`, and more follows: "
                "write what the turn said or called"
            )
    ends = [*begin[1:], len(messages)]
    return messages[: begin[0]], [
        Exchange(messages[k], messages[k + 1 : end]) for k, end in zip(begin, ends, strict=True)
    ]
