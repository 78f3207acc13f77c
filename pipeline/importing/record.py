"""The parts of a rollout in one record of a file, under the names that frameworks give them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envs.data.jsonl import is_whole, require_unicode
from envs.data.question import Question
from envs.errors import InputError
from envs.search.trajectory import Termination
from pipeline.importing.golds import container_in, gold_field, is_there, read_golds

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's older name
}
"""A message's role, and what it counts as."""
REWARDS = ("reward", "score", "outcome")
GROUPS = ("group", "group_id", "uid", "example_id")
STEPS = ("step", "iteration", "global_step")
IDS = ("rollout_id", "episode_id")
TOOLS = ("tools", "tool_defs")
ENDS = ("finish_reason", "stop_reason", "status", "stop_condition", "is_truncated")
"""Where frameworks say that a rollout was cut off."""
CUT_OFF = ("length", "max_tokens", "truncated", "token_limit", "prompt_too_long")
TEXT_PARTS = ("text", "input_text", "output_text")
LARGEST_STEP = 999_999


@dataclass(frozen=True)
class Record:
    """One record. Fields that are null, or pandas' NaN, count as missing; of several names the first counts.

    Every method raises InputError, which names `where` and the field, for what it cannot read.

    Attributes:
        where: the place, such as "file:line".
        fields: what it holds.
        origins: our names of fields that stand under others in the file, with those.
    """

    where: str
    fields: dict[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields that are there."""
        return tuple(filter(self._has, self.fields))

    def messages(self) -> tuple[list[dict[str, Any]], int]:
        """`messages`, or `prompt` and `completion` together, as chat templates take them.

        Returns:
            The messages, and how many of them are the prompt for sure, 0 where that is not said. Those may
            hold messages of the assistant: few-shot examples.
        """
        if self._has("messages"):
            given = self._list("messages")
            in_prompt = self._whole("prompt_messages", 0, len(given) - 1)
        elif self._has("completion"):
            prompt = self._list("prompt")
            given, in_prompt = [*prompt, *self._list("completion")], len(prompt)
        else:
            found = ", ".join(map(repr, self.fields)) or "nothing"
            raise InputError(
                f"{self.where}: `messages` (or `prompt` and `completion`), a list of chat messages, is not "
                f"among the fields {found:.90}"
            )
        messages = [_message(message, f"{self.where}: message {k}") for k, message in enumerate(given)]
        return messages, in_prompt

    def question(self, prompt: list[dict[str, Any]], data_source: str) -> Question:
        """The question with its gold answers; its text is `question`, else what the user said last."""
        extra, metadata = self._object("extra_info"), self._object("metadata")
        said = next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")
        asked = self.fields.get("question"), extra.get("question")
        text = next((value for value in asked if is_there(value) and value), said)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{self.where}: the question must be text, found {text!r:.80}")
        require_unicode(text, "the question", self.where)
        golds = read_golds(self.fields, self.where)
        hops = next(filter(is_there, (self.fields.get("hops"), metadata.get("hops"))), None)
        if hops is not None and not (is_whole(hops) and hops >= 1):
            raise InputError(f"{self.where}: `hops` must be a whole number from 1, found {hops!r:.40}")
        return Question(
            id=hashlib.sha256(json.dumps([text, golds]).encode()).hexdigest()[:16],
            text=text.strip(),
            golds=golds,
            data_source=str(self._first(("data_source",))[1] or data_source),
            hops=None if hops is None else int(hops),
            metadata=metadata,
        )

    def step(self, default: int) -> int:
        """The training step, from 0."""
        name, value = self._first(STEPS)
        if value is None:
            return default
        if not is_whole(value) or not 0 <= value <= LARGEST_STEP:
            raise InputError(f"{self.where}: `{name}` must be a whole number from 0, found {value!r:.40}")
        return int(value)

    def reward(self) -> float | None:
        """The outcome."""
        name, value = self._first(REWARDS)
        if value is None:
            return None
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{self.where}: `{name}` must be a finite number, found {value!r:.40}")
        return float(value)

    def termination(self) -> Termination | None:
        """How the rollout ended: `termination`, else whether a field of `ENDS` says that it was cut off."""
        name, value = self._end()
        if name and name != "termination":
            return Termination.TOKEN_LIMIT
        if value is not None and value not in list(Termination):
            known = ", ".join(Termination)
            raise InputError(f"{self.where}: `termination` must be one of {known}, found {value!r:.40}")
        return None if value is None else Termination(value)

    def _end(self) -> tuple[str, Any]:
        """Name and value of the field that says how the rollout ended; empty and None where none does."""
        if self._has("termination"):
            return "termination", self.fields["termination"]
        for name in ENDS:
            value = self.fields.get(name)
            if value is True if name == "is_truncated" else str(value).lower() in CUT_OFF:
                return name, value
        return "", None

    def sources(self) -> dict[str, str]:
        """For each part that several fields may give, the one that gave it; empty where none did."""
        found = {
            "gold answers": gold_field(self.fields)[0],
            "group": self._first(GROUPS)[0],
            "step": self._first(STEPS)[0],
            "end": self._end()[0],
            "outcome": self._first(REWARDS)[0],
        }
        return {part: self.origins.get(name, name) for part, name in found.items()}

    def name(self, names: tuple[str, ...]) -> str:
        """The text or number under one of `names`; empty where none is there."""
        name, value = self._first(names)
        if value is None:
            return ""
        value = int(value) if is_whole(value) else value
        if not isinstance(value, str | int):
            raise InputError(f"{self.where}: `{name}` must be a text or a number, found {value!r:.40}")
        require_unicode(str(value), f"`{name}`", self.where)
        return str(value)

    def tools(self) -> list[Any] | None:
        """The schemas of the tools in OpenAI's form, also where they are written without `function`."""
        name, _ = self._first(TOOLS)
        tools = self._list(name) if name else []
        return [
            {"type": "function", "function": tool}
            if isinstance(tool, dict) and "function" not in tool and "name" in tool
            else tool
            for tool in tools
        ] or None

    def _has(self, name: str) -> bool:
        return is_there(self.fields.get(name))

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        """Name and value of the first field that is there; empty and None where none is."""
        return next(((name, self.fields[name]) for name in names if self._has(name)), ("", None))

    def _object(self, name: str) -> dict[str, Any]:
        """The object under `name`, or in the text there; an empty one where none is there."""
        value = self.fields.get(name)
        value = container_in(value) if isinstance(value, str) else value
        return value if isinstance(value, dict) else {}

    def _whole(self, name: str, default: int, largest: int) -> int:
        """The whole number from 1 under `name`."""
        if not self._has(name):
            return default
        value = self.fields[name]
        if not (is_whole(value) and 1 <= value <= largest):
            raise InputError(
                f"{self.where}: `{name}` must be a whole number from 1 to {largest}, found {value!r:.40}"
            )
        return int(value)

    def _list(self, name: str) -> list[Any]:
        value = self.fields.get(name) if self._has(name) else []
        if isinstance(value, str) and isinstance(found := container_in(value), list):  # a table's cell
            value = found
        if not isinstance(value, list):
            raise InputError(f"{self.where}: `{name}` must be a list, found {value!r:.80}")
        return value


def _message(message: Any, where: str) -> dict[str, Any]:
    """A message as chat templates take it: text as its content, calls in OpenAI's form."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise InputError(f"{where} must have a `role` of {', '.join(ROLES)}, found {message!r:.80}")
    kept = {key: value for key, value in message.items() if is_there(value) and value != []}
    kept |= {"role": ROLES[message["role"]], "content": _text(kept.get("content"), where)}
    older = kept.pop("function_call", None)  # OpenAI's, for one call
    if older is not None:
        kept.setdefault("tool_calls", [older])
    if "tool_calls" in kept:
        calls = _parsed(kept["tool_calls"], list)
        if not isinstance(calls, list):
            raise InputError(f"{where}: `tool_calls` must be a list, found {calls!r:.80}")
        kept["tool_calls"] = [_call(call, where) for call in calls]
    if "reasoning_content" in kept:
        kept["reasoning_content"] = _text(kept["reasoning_content"], where)
    return kept


def _text(content: Any, where: str) -> str:
    """The content as text; parts of text are joined, and what a tool returned as an object becomes JSON."""
    if isinstance(content, dict):
        content = json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise InputError(f"{where}: `content` must be text, found {content!r:.80}")
    require_unicode(content, "its content", where)
    return content


def _part(part: Any, where: str) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else "text"
    text = part.get("text") if isinstance(part, dict) and kind in TEXT_PARTS else part
    if not isinstance(text, str):
        if "image" in str(kind) or "audio" in str(kind) or "video" in str(kind):
            raise InputError(
                f"{where}: a part of its content is of type {kind!r:.40}, and only text is scored"
            )
        raise InputError(
            f"{where}: a part of its content is no text ({part!r:.60}): write tool calls into `tool_calls`, "
            "and results into messages of role tool"
        )
    return text


def _call(call: Any, where: str) -> dict[str, Any]:
    """A tool call in OpenAI's form, with the arguments as an object, which templates write as JSON.

    It may be written without `function` around it, or as JSON (verifiers). Arguments that are no JSON object
    stay as they are.
    """
    call = _parsed(call, dict)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(f"{where}: a tool call must have a `name`, found {call!r:.80}")
    arguments = function.get("arguments")
    require_unicode(json.dumps(arguments, ensure_ascii=False), "a tool call", where)
    function = {"name": function["name"], "arguments": {} if arguments is None else _parsed(arguments, dict)}
    return {key: call[key] for key in ("id",) if key in call} | {"type": "function", "function": function}


def _parsed(value: Any, kind: type) -> Any:
    """What a text holds as JSON, where it is of `kind`; else the value."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, kind) else value
