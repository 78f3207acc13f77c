"""Does a chat template show all of a conversation? Belief on a part of it would be another conversation's.

A template does the same to all conversations of one form. So each form is rendered once with words of its own
in the place of every text, and those are looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

THOUGHTS = "earlier thoughts"
"""What templates of thinking models leave out on purpose, once the conversation has gone on."""
_CALLS, _RESULTS, _TOOLS = "calls of tools", "a message of role tool", "the tools that it is given"
OF_TOOLS = (_CALLS, _RESULTS, _TOOLS)
"""What templates of models without tools leave out."""
_WORD = "qzword{}qz"
_THINK = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
Render = Callable[[list[dict[str, Any]], list[Any] | None], str]


def what_is_lost(
    messages: list[dict[str, Any]], tools: list[Any] | None, render: Render, known: dict[Any, list[str]]
) -> list[str]:
    """What the template leaves out of conversations of this form, in words; empty if nothing.

    Args:
        messages: the conversation, as `pipeline.importing.record` gives it.
        tools: schemas to show.
        render: the chat template, as a function of messages and tools.
        known: answers by form, which the next calls find.

    Raises:
        ValueError: the template cannot render it.
    """
    form = (*(_form(message) for message in messages), str(tools))
    if form not in known:
        known[form] = _lost(messages, tools, render)
    return known[form]


def _form(message: dict[str, Any]) -> tuple[Any, ...]:
    """All that a template's treatment of a message may hang on."""
    content = message["content"]
    return (
        message["role"],
        bool(content.strip()),
        bool(_THINK.match(content)),
        bool(message.get("reasoning_content")),
        len(message.get("tool_calls", ())),
    )


def _lost(messages: list[dict[str, Any]], tools: list[Any] | None, render: Render) -> list[str]:
    looked_for: dict[str, str] = {}

    def word(what: str) -> str:
        looked_for[made := _WORD.format(len(looked_for))] = what
        return made

    shown = []
    for message in messages:
        role, content = message["role"], message["content"]
        copy = dict(message)
        if content.strip():
            thought = f"<think>\n{word(THOUGHTS)}\n</think>\n" if _THINK.match(content) else ""
            whose = "words of the assistant" if role == "assistant" else f"a message of role {role}"
            copy["content"] = thought + word(whose)
        if message.get("reasoning_content"):
            copy["reasoning_content"] = word(THOUGHTS)
        if message.get("tool_calls"):
            copy["tool_calls"] = [
                call
                | {
                    "function": {
                        "name": word(_CALLS),
                        "arguments": {"query": word(_CALLS)},
                    }
                }
                for call in message["tool_calls"]
            ]
        shown.append(copy)
    text = render(shown, tools)
    lost = [what for made, what in looked_for.items() if made not in text]
    names = [
        tool["function"]["name"] for tool in tools or () if isinstance(tool, dict) and "function" in tool
    ]
    if any(str(name) not in text for name in names):
        lost.append(_TOOLS)
    return list(dict.fromkeys(lost))
