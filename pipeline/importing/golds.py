"""The gold answers of a record, under the names and in the forms in which frameworks write them."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from envs.data.jsonl import is_whole, require_unicode
from envs.data.sources.question_shapes import ANSWER_SPLIT
from envs.errors import InputError

GOLDS = (
    "reward_model.ground_truth",  # verl
    "reward_spec.ground_truth",  # SkyRL
    "env_extras.reward_spec.ground_truth",
    "golden_answers",
    "golds",
    "gold",
    "ground_truth",
    "gts",
    "solution",
    "label",
    "extra_info.golden_answers",
    "extra_info.ground_truth",
    "extra_info.reward_model.ground_truth",
    "extra_info.answer",
    "info.answer",  # verifiers
    "answers",
    "possible_answers",
    "answer",
)
"""Names of the gold answers; the first that is there counts. The last may be an answer of the policy."""
_WITHIN = ("target", "ground_truth", "golden_answers", "answers", "answer", "text", "value")
"""Names of the gold answers in an object that stands for them."""

_BROKEN = re.compile(r"\[.*\]$|\{.*\}$|[\[{]\s*['\"]|array\(", re.DOTALL)
"""What a text that looks like a list or an object is like."""


def gold_field(fields: dict[str, Any]) -> tuple[str, Any]:
    """Name and value of the field that holds the gold answers; empty and None where none is there."""
    found = ((name, _at(fields, name)) for name in GOLDS)
    return next(((name, value) for name, value in found if value is not None), ("", None))


def read_golds(fields: dict[str, Any], where: str) -> list[str]:
    """The gold answers, in order and without repetitions; at least one.

    Args:
        fields: the record.
        where: its place, such as "file:line".

    Raises:
        InputError: there is none, or what is there is neither a text nor a list of texts.
    """
    name, written = gold_field(fields)
    value = _taken_out(written, name, where)
    golds = [as_text(gold) for gold in (value if isinstance(value, list) else [value]) if is_there(gold)]
    if not all(isinstance(gold, str) for gold in golds):
        raise InputError(f"{where}: `{name}` must be a text or a list of texts, found {value!r:.80}")
    golds = list(dict.fromkeys(gold.strip() for gold in golds if gold.strip()))
    if not golds:
        names = ", ".join(map(repr, fields))
        found = f"`{name}` is {written!r:.40}" if name else f"the fields are {names:.70}"
        raise InputError(
            f"{where}: no gold answer: give one as `golden_answers` (or `ground_truth`, `solution`, `label`, "
            f"`answer`), or name yours with --field golden_answers=NAME; {found}"
        )
    for gold in golds:
        require_unicode(gold, f"`{name}`", where)
    return golds


def container_in(text: str) -> list[Any] | dict[str, Any] | None:
    """The list or object that a text holds as JSON or as Python writes it; None where it holds none."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        if _packed(repr(found)) != _packed(text):  # NumPy's ['a' 'b'], which Python reads as ['ab']
            return None
    return found if isinstance(found, list | dict) else None


def reach(fields: Any, path: str) -> Any:
    """The value under a name, or a path; an object on the way may be written as text (JSON or Python).

    Raises:
        KeyError: there is none.
    """
    fields = container_in(fields) if isinstance(fields, str) else fields
    if not isinstance(fields, dict):
        raise KeyError(path)
    if path in fields:
        return fields[path]
    first, _, rest = path.partition(".")
    if not rest:
        raise KeyError(path)
    return reach(fields[first], rest)


def is_there(value: Any) -> bool:
    """Whether a value is neither null nor pandas' NaN, which is unequal to itself."""
    return value is not None and value == value


def as_text(gold: Any) -> Any:
    """Numbers as text: a gold answer may be a year."""
    if isinstance(gold, bool) or not isinstance(gold, int | float):
        return gold
    return str(int(gold)) if is_whole(gold) else str(gold)


def _at(fields: dict[str, Any], path: str) -> Any:
    """The value at `path`; None where it is missing, null or NaN."""
    try:
        value = reach(fields, path)
    except KeyError:
        return None
    return value if is_there(value) else None


def _taken_out(value: Any, name: str, where: str) -> Any:
    """What stands in the objects and serialised texts around the gold answers.

    Raises:
        InputError: a text looks like a list or an object and is none, or an object has no known name.
    """
    if isinstance(value, str):
        if ANSWER_SPLIT in value:  # the paper's data
            return value.split(ANSWER_SPLIT)
        found = container_in(value)
        if found is None:
            _refuse_broken(value.strip(), name, where)
            return value
        value = found
    if not isinstance(value, dict):
        return value
    key = next((key for key in _WITHIN if value.get(key) is not None), None)
    if key is None:
        raise InputError(
            f"{where}: `{name}` must be a text, a list of texts or an object with `target`, "
            f"found {value!r:.80}"
        )
    aliases = value.get("aliases") if key == "value" else None  # TriviaQA
    return [value[key], *aliases] if isinstance(aliases, list) else _taken_out(value[key], name, where)


def _refuse_broken(text: str, name: str, where: str) -> None:
    """Raises InputError for text such as NumPy's `['a' 'b']`, which would be scored with its brackets."""
    if _BROKEN.match(text):
        raise InputError(
            f"{where}: `{name}` looks like a list or an object and cannot be read as one ({text:.60}): write "
            'it as JSON, such as ["Paris"]'
        )


def _packed(text: str) -> str:
    return "".join(text.split())
