"""A conversation that was logged as one text, taken apart into chat messages.

Three marks of a turn's end are known, and the first that a text holds is used:

- ChatML's own tokens: `<|im_end|>`, `<|im_start|>user` (or `tool`), the observation, `<|im_start|>assistant`.
- The same where the decoder skipped special tokens: a line `user` (or `tool`), the observation, a line
  `assistant`.
- Search-R1's: `<search>...</search>` and then `<information>...</information>`, all in one message.
"""

from __future__ import annotations

import re

from envs.errors import InputError

Piece = tuple[str, str]
"""Role and content."""

_OPEN, _CLOSE = "<|im_start|>", "<|im_end|>"
_START = re.compile(r"<\|im_start\|>(system|user|assistant|tool)(?:\n|\Z)")
_FIRST_TOKENS = re.compile(r"(?:\s|<s>|<\|endoftext\|>)+(?=<\|im_start\|>)")
"""What begins or pads a prompt, in front of its first message."""
_LAST_TOKENS = re.compile(r"(?:\s|</s>|<\|im_end\|>|<\|endoftext\|>)+\Z")
_LINES = re.compile(r"(?:\A|\n)(system|user|assistant|tool)(?:\n|\Z)")
_OBSERVED = re.compile(
    r"\n(user|tool)\n(\s*<tool_response>.*?</tool_response>|.*?)\s*?\nassistant(?:\n|\Z)"
    r"|\n(user|tool)\n(\s*<tool_response>.*)\Z",  # nothing was decided after it
    re.DOTALL,
)
_INFORMED = re.compile(r"(?<=</search>)\s*(<information>.*?(?:</information>\s*|\Z))", re.DOTALL)
_UNKNOWN = re.compile(
    r"<\|start_header_id\|>|<\|eot_id\|>|<start_of_turn>|<end_of_turn>|<\|start\|>|\[/INST\]|<[|｜]User[|｜]>",
    re.IGNORECASE,
)


def prompt_messages(text: str, where: str) -> tuple[list[Piece], str]:
    """The messages of a prompt's text, and what it begins of the assistant's first message.

    Text without a chat template's boundaries is one message of the user.

    Raises:
        InputError: it holds another template's boundaries, or is not the sum of its messages.
    """
    _require_known(text, where)
    if begin := _FIRST_TOKENS.match(text):
        text = text[begin.end() :]
    pieces = _of_tokens(text, where) if _OPEN in text else _of_lines(text)
    if not pieces:
        return ([("user", text)] if text.strip() else []), ""
    if pieces[-1][0] == "assistant":
        return pieces[:-1], pieces[-1][1]
    return pieces, ""


def response_messages(text: str, where: str) -> list[Piece]:
    """The messages of a response's text, of which the first is the assistant's; without a boundary, one.

    Raises:
        InputError: it holds another template's boundaries, or is not the sum of its messages.
    """
    _require_known(text, where)
    text = _LAST_TOKENS.sub("", text)
    if _OPEN in text or _CLOSE in text:
        pieces = _of_tokens(f"{_OPEN}assistant\n{text}", where)
    elif _OBSERVED.search(text):
        pieces = _of_skipped(text, where)
    else:
        pieces = _of_information(text, where)
    is_empty = pieces[-1][0] == "assistant" and not pieces[-1][1].strip()
    return pieces[:-1] if is_empty and len(pieces) > 1 else pieces


def _of_tokens(text: str, where: str) -> list[Piece]:
    """Messages between ChatML's tokens; the last need not be closed."""
    _, *parts = _START.split(text)
    pieces = [(role, body.partition(_CLOSE)[0]) for role, body in zip(parts[::2], parts[1::2], strict=True)]
    again = "".join(f"{_OPEN}{role}\n{content}{_CLOSE}" for role, content in pieces)
    _require_same(_LAST_TOKENS.sub("", again), _LAST_TOKENS.sub("", text), where)
    if any(_OPEN in content for _, content in pieces):
        raise InputError(_unlike(where))
    return pieces


def _of_lines(text: str) -> list[Piece]:
    """Messages of a prompt below lines that name their roles, up to the assistant's; else none."""
    before, *parts = _LINES.split(text)
    if before or "assistant" not in parts[-2:-1]:
        return []
    return list(zip(parts[::2], parts[1::2], strict=True))


def _of_skipped(text: str, where: str) -> list[Piece]:
    pieces, begin, is_decided = [], 0, True
    for found in _OBSERVED.finditer(text):
        pieces.append(("assistant", text[begin : found.start()]))
        pieces.append((found[1] or found[3], found[2] if found[1] else found[4]))
        begin, is_decided = found.end(), bool(found[1])
    if is_decided:
        pieces.append(("assistant", text[begin:]))
    again = "".join(f"{role}{content}" for role, content in pieces)
    _require_same(again, f"assistant{text}", where)
    return pieces


def _of_information(text: str, where: str) -> list[Piece]:
    parts = _INFORMED.split(text)
    pieces = [("user" if k % 2 else "assistant", part.strip() if k else part) for k, part in enumerate(parts)]
    _require_same("".join(parts), text, where)
    return pieces


def _require_known(text: str, where: str) -> None:
    if found := _UNKNOWN.search(text):
        raise InputError(
            f"{where} holds {found[0]}, and in one text only ChatML's and Search-R1's turns are told apart: "
            "write its conversation as a list, `messages`"
        )


def _require_same(again: str, text: str, where: str) -> None:
    """Raises InputError where two texts differ in more than whitespace."""
    if "".join(again.split()) != "".join(text.split()):
        raise InputError(_unlike(where))


def _unlike(where: str) -> str:
    return (
        f"{where} is not the sum of its turns: text stands outside of <|im_start|>ROLE and <|im_end|>. Write "
        "its conversation as a list, `messages`"
    )
