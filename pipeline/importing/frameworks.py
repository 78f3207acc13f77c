"""Rollouts that frameworks log with the whole conversation as one text, in the fields of this project."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from envs.errors import InputError
from pipeline.importing.fields import has
from pipeline.importing.golds import reach
from pipeline.importing.one_text import Piece, prompt_messages, response_messages


@dataclass(frozen=True)
class Form:
    """How a framework logs a rollout.

    Attributes:
        prompt: its field of the prompt: text, or a list of messages.
        response: its field of all that came after the prompt, as text.
        others: our names with theirs, of which the first that is there counts.
    """

    prompt: str
    response: str
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_VERL = Form("input", "output")
_SKYRL = Form(
    "input_prompt",
    "output_response",
    {"golden_answers": ("env_extras.reward_spec.ground_truth",), "reward": ("score",)},
)
_SLIME = Form(
    "prompt",
    "response",
    {
        "golden_answers": ("label.ground_truth", "label"),
        "reward": ("reward.score",),
        "group": ("group_index",),
    },
)
_TRL = Form("prompt", "completion")
_NO_REWARD_OF_TRL = ("step", "advantage")


def with_messages(
    fields: dict[str, Any], where: str, named: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """The record with `prompt` and `completion` as lists of messages; as it is where it has no response that
    is one text.

    Args:
        fields: the record.
        where: its place, such as "file:line".
        named: names of ours that the user gave a field for: the framework's own yield to these.

    Returns:
        The record, and our names of what was taken from the framework's fields with the names there.

    Raises:
        InputError: the text cannot be taken apart, or it is not clear which field is the reward.
    """
    form = next((one for one in (_VERL, _SKYRL, _SLIME, _TRL) if _is_of(fields, one)), None)
    if form is not None and {"prompt", "completion"} & set(named):
        prompt = "prompt" if "prompt" in named else form.prompt
        response = "completion" if "completion" in named else form.response
        form = replace(form, prompt=prompt, response=response)
    if form is None or not _is_of(fields, form):
        return fields, {}
    prompt, begun = _prompt(fields.get(form.prompt), f"{where}: `{form.prompt}`")
    completion = response_messages(begun + fields[form.response], f"{where}: `{form.response}`")
    origins = {
        ours: there
        for ours, paths in form.others.items()
        if (there := next((path for path in paths if has(fields, path)), ""))
        and (ours not in fields or there.startswith(f"{ours}."))
    }
    if form.response == _TRL.response and not {"reward", "score", "outcome"} & set(fields):
        origins |= _reward_of_trl(fields, where)
    known = {ours: reach(fields, there) for ours, there in origins.items()}
    if isinstance(rewards := known.get("reward"), list) and all(map(_is_number, rewards)):
        known["reward"] = math.fsum(rewards)  # SkyRL's: one for each token
    return fields | known | {"prompt": prompt, "completion": _as_messages(completion)}, origins


def _is_of(fields: dict[str, Any], form: Form) -> bool:
    response = fields.get(form.response)
    return fields.get("messages") is None and isinstance(response, str) and not _is_json_list(response)


def _prompt(value: Any, where: str) -> tuple[Any, str]:
    """The messages of the prompt, and what it begins of the first decision."""
    if not isinstance(value, str) or _is_json_list(value):
        return value, ""
    pieces, begun = prompt_messages(value, where)
    return _as_messages(pieces), begun


def _as_messages(pieces: list[Piece]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pieces]


def _reward_of_trl(fields: dict[str, Any], where: str) -> dict[str, str]:
    """The reward's name, where a single column can be one: TRL logs each function's, and not their weights.

    Raises:
        InputError: several columns can be.
    """
    named = [name for name, value in fields.items() if name.endswith("reward") and _may_be_number(value)]
    if not named and "advantage" in fields:
        named = [
            name for name, value in fields.items() if _is_number(value) and name not in _NO_REWARD_OF_TRL
        ]
    if len(named) > 1:
        raise InputError(
            f"{where}: several fields may be the reward ({', '.join(named):.120}): say which, as --field "
            f"reward={named[0]:.40}"
        )
    return {"reward": named[0]} if named else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _may_be_number(value: Any) -> bool:
    return value is None or _is_number(value)  # a reward function may leave rollouts out


def _is_json_list(text: str) -> bool:
    """Whether a table's cell holds a list of messages."""
    if not text.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
