"""A protocol of one's own, named by import path, and the checks that it must pass before anything starts."""

from __future__ import annotations

import inspect
from typing import Any

from envs.errors import InputError
from envs.search.protocols.base import Action, Protocol
from envs.search.trajectory import ActionKind
from envs.user_code import called, import_function

ANSWER = "Rome"
"""The answer that is written and read back."""
PARTS = ("name", "tokenizer", "stop_token_ids", "stop_strings")
METHODS = tuple(name for name, _ in inspect.getmembers(Protocol, inspect.isfunction) if name[0] != "_")


def own_protocol(path: str, tokenizer: Any, tools: list[dict]) -> Protocol:
    """Makes the protocol at `path`: a class or function of the tokenizer, and of `tools` where it takes them.

    Raises:
        InputError: it cannot be imported or made, lacks a part of `envs.search.protocols.base.Protocol`, or
            does not read back the answer that it writes.
    """
    make = import_function(path, "protocol")
    given = {"tools": tools} if "tools" in inspect.signature(make).parameters else {}
    protocol = called(path, "protocol", make, tokenizer, **given)
    lacks = [name for name in (*PARTS, *METHODS) if not hasattr(protocol, name)]
    if lacks:
        raise InputError(
            f"protocol {path!r} lacks {', '.join(lacks)}: extend "
            "envs.search.protocols.tagged.TaggedProtocol, or write every part of "
            "envs.search.protocols.base.Protocol"
        )
    _check(protocol, path)
    return protocol


def _check(protocol: Protocol, path: str) -> None:
    """Raises InputError where an answer is not read back as it was written, or cannot be scored."""
    try:
        written = protocol.decision(Action(ActionKind.ANSWER, text=ANSWER))
        read, complete = protocol.parse(written), protocol.is_complete(written)
        suffix = protocol.scoring_suffix(ANSWER)
        gold = len(suffix.gold_mask_L), int(sum(suffix.gold_mask_L))
    except Exception as error:
        raise InputError(
            f"protocol {path!r} fails on the answer {ANSWER!r}: {type(error).__name__}: {error}"
        ) from error
    if read.kind is not ActionKind.ANSWER or read.text != ANSWER:
        raise InputError(
            f"protocol {path!r}: `parse` reads {read.kind} {(read.error or read.text)!r:.60} in the answer "
            f"{ANSWER!r} that `decision` wrote"
        )
    if not complete:
        raise InputError(
            f"protocol {path!r}: `is_complete` does not take the answer that `decision` wrote as ended"
        )
    if gold[0] != len(suffix.ids) or not gold[1] > 0:
        raise InputError(
            f"protocol {path!r}: `scoring_suffix` marks {gold[1]} gold tokens among {gold[0]} for "
            f"{len(suffix.ids)} ids; it needs one mark for each id, and a gold token"
        )
