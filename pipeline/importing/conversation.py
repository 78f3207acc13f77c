"""Reads rollouts that another framework wrote: one conversation a record, in the form of chat messages.

    {"messages": [{"role": "user", "content": "Who wrote Dune?"},
                  {"role": "assistant", "content": "<search>Dune novel</search>"},
                  {"role": "user", "content": "Dune is a 1965 novel by Frank Herbert."},
                  {"role": "assistant", "content": "<answer>Frank Herbert</answer>"}],
     "golden_answers": ["Frank Herbert"], "reward": 1.0, "group": "q17", "step": 3}

Everything before the first message of the assistant is the prompt. Each of its messages is a turn; what
follows it up to the next one is the turn's observation.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from envs.data.jsonl import is_whole
from envs.data.question import Question
from envs.data.question_formats import Record
from envs.data.sources.files import read_records
from envs.data.sources.question_shapes import ANSWERS, Unusable
from envs.errors import InputError
from envs.search.trajectory import Termination

ROLES = ("system", "user", "assistant", "tool")
GOLDS = ("golds", "gold", "ground_truth", "gts")
"""Names of the gold answers besides those of questions."""
REWARDS, GROUPS, STEPS, IDS, TOOLS = (
    ("reward", "score", "outcome"),
    ("group", "group_id", "uid", "example_id"),
    ("step", "iteration", "global_step"),
    ("rollout_id", "episode_id"),
    ("tools", "tool_defs"),
)
"""Names of the other parts of a record, the first that is there counts."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message of the assistant, and the messages that answer it."""

    decision: dict[str, Any]
    observations: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One rollout, as it was written.

    Attributes:
        id: name of the rollout, unique within its step.
        group: name of its group: the rollouts of one prompt in one step.
        step: the training iteration, from 1.
        question: the question, with its gold answers.
        prompt: the messages before the first turn.
        exchanges: the turns, at least one.
        tools: schemas that the chat template showed; None where none are said.
        reward: the outcome; None where none is said.
        termination: how the rollout ended; None where that is not said.
    """

    id: str
    group: str
    step: int
    question: Question
    prompt: list[dict[str, Any]]
    exchanges: list[Exchange]
    tools: list[Any] | None
    reward: float | None
    termination: Termination | None

    def messages(self, turns: int) -> list[dict[str, Any]]:
        """The messages up to the end of the first `turns` turns."""
        exchanges = self.exchanges[:turns]
        return self.prompt + [m for one in exchanges for m in (one.decision, *one.observations)]


def read_conversations(source: str | Path) -> list[Conversation]:
    """Reads all rollouts of a file (JSONL, JSON or Parquet), or of a folder or `FOLDER@SPLIT`.

    Raises:
        InputError: there are none, one lacks messages or a gold answer, or two of a step have one id.
    """
    found = list(_read(source))
    if not found:
        raise InputError(f"{source}: it holds no rollout")
    shift = int(min(one.step for one in found) == 0)
    members: Counter[str] = Counter()
    conversations = []
    for one in found:
        group = f"{one.step + shift:06d}/{one.group}"
        name = one.id or f"{group}/{members[group]}"
        members[group] += 1
        conversations.append(replace(one, id=name, group=group, step=one.step + shift))
    (step, name), times = Counter((one.step, one.id) for one in conversations).most_common(1)[0]
    if times > 1:
        raise InputError(f"{source}: {times} rollouts of step {step} have the id {name!r}: give each its own")
    return conversations


def _read(source: str | Path) -> Iterator[Conversation]:
    """The conversations with step, group and id as they are written; an id that is not is empty."""
    data_source, records = read_records(source, "rollout file")
    for where, row, fields in records:
        prompt, exchanges = _exchanges(_messages(fields, where), where)
        question = _question(Record(where, row, _as_question(fields, prompt), data_source))
        yield Conversation(
            id=_name(fields, IDS, where),
            group=_name(fields, GROUPS, where) or question.id,
            step=_step(fields, where),
            question=question,
            prompt=prompt,
            exchanges=exchanges,
            tools=[_tool(tool) for tool in _list(_first(fields, TOOLS), f"{where}: `tools`")] or None,
            reward=_reward(fields, where),
            termination=_termination(fields, where),
        )


def _messages(fields: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """`messages`, or TRL's `prompt` and `completion` together."""
    if fields.get("messages") is not None:
        given = _list(fields["messages"], f"{where}: `messages`")
    elif fields.get("completion") is not None:
        given = _list(fields.get("prompt"), f"{where}: `prompt`") + _list(
            fields["completion"], f"{where}: `completion`"
        )
    else:
        found = ", ".join(map(repr, fields)) or "nothing"
        raise InputError(
            f"{where}: `messages` (or `prompt` and `completion`), a list of chat messages, is not among the "
            f"fields {found:.120}"
        )
    return [_message(message, f"{where}: message {k}") for k, message in enumerate(given)]


def _message(message: Any, where: str) -> dict[str, Any]:
    """A message with text as its content."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise InputError(f"{where} must have a `role` of {', '.join(ROLES)}, found {message!r:.80}")
    content = message.get("content")
    if isinstance(content, list):  # in parts; only those of text are words
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise InputError(f"{where}: `content` must be text, found {content!r:.80}")
    kept = {key: value for key, value in message.items() if value is not None} | {"content": content or ""}
    if kept.get("tool_calls"):
        kept["tool_calls"] = [
            _call(call, where) for call in _list(kept["tool_calls"], f"{where}: `tool_calls`")
        ]
    return kept


def _call(call: Any, where: str) -> dict[str, Any]:
    """A tool call in the form that chat templates take: OpenAI's, with the arguments as an object.

    It may be written without `function` around it, or as JSON (verifiers). Arguments that are no JSON object
    stay as they are.
    """
    call = _parsed(call)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(f"{where}: a tool call must have a `name`, found {call!r:.80}")
    arguments = function.get("arguments")
    function = {"name": function["name"], "arguments": {} if arguments is None else _parsed(arguments)}
    return {key: call[key] for key in ("id",) if key in call} | {"type": "function", "function": function}


def _tool(tool: Any) -> Any:
    """A tool's schema in OpenAI's form, also where it is written without `function` around it."""
    bare = isinstance(tool, dict) and "function" not in tool and "name" in tool
    return {"type": "function", "function": tool} if bare else tool


def _parsed(value: Any) -> Any:
    """The object that a text holds as JSON, else the value."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, dict) else value


def _exchanges(messages: list[dict[str, Any]], where: str) -> tuple[list[dict[str, Any]], list[Exchange]]:
    """The prompt, and a turn for each message of the assistant."""
    begin = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
    if not begin or begin[0] == 0:
        lack = (
            "has no message of the assistant" if not begin else "begins with the assistant: give its prompt"
        )
        raise InputError(f"{where}: the conversation {lack}")
    ends = [*begin[1:], len(messages)]
    return messages[: begin[0]], [
        Exchange(messages[k], messages[k + 1 : end]) for k, end in zip(begin, ends, strict=True)
    ]


def _as_question(fields: dict[str, Any], prompt: list[dict[str, Any]]) -> dict[str, Any]:
    """The record as a question: text and gold answers under names that questions have."""
    record = {key: value for key, value in fields.items() if key not in ("messages", "completion", "tools")}
    if "reward_model" in record:  # verl's
        return record | {"prompt": prompt}
    if "question" not in record:
        record["question"] = next((m["content"] for m in reversed(prompt) if m["role"] == "user"), None)
    if not any(key in record for key in ANSWERS):
        golds = _first(record, GOLDS)
        record |= {} if golds is None else {ANSWERS[0]: golds}
    return record


def _question(record: Record) -> Question:
    try:
        return record.question()
    except Unusable as reason:
        raise InputError(f"{record.where}: {reason}") from reason


def _step(fields: dict[str, Any], where: str) -> int:
    value = _first(fields, STEPS)
    if value is None:
        return 1
    if not is_whole(value) or value < 0:
        raise InputError(f"{where}: the step must be a whole number from 0, found {value!r:.40}")
    return int(value)


def _reward(fields: dict[str, Any], where: str) -> float | None:
    value = _first(fields, REWARDS)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: the reward must be a finite number, found {value!r:.40}")
    return float(value)


def _termination(fields: dict[str, Any], where: str) -> Termination | None:
    value = fields.get("termination")
    if value is None:
        return None
    if value not in list(Termination):
        known = ", ".join(Termination)
        raise InputError(f"{where}: `termination` must be one of {known}, found {value!r:.40}")
    return Termination(value)


def _name(fields: dict[str, Any], keys: tuple[str, ...], where: str) -> str:
    value = _first(fields, keys)
    if value is not None and not isinstance(value, str | int):
        raise InputError(f"{where}: `{keys[0]}` must be text or a number, found {value!r:.40}")
    return "" if value is None else str(value)


def _list(value: Any, where: str) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # a table's cell
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{where} is no valid JSON: {error}") from error
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list of chat messages, found {value!r:.80}")
    return value


def _first(fields: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((fields[key] for key in keys if fields.get(key) is not None), None)
