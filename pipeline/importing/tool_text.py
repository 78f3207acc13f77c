"""Tool calls in the words of a conversation, for chat templates that show words alone."""

from __future__ import annotations

import json
from typing import Any


def written_out(messages: list[dict[str, Any]], tools: list[Any] | None) -> list[dict[str, Any]]:
    """The messages with all that belongs to tools as text, in messages of system, user and assistant.

    A call becomes `<tool_call>{...}</tool_call>` behind the assistant's words. Results that follow one
    another become one message of the user, each in `<tool_response>` tags. The schemas of `tools` stand in
    `<tools>` tags at the end of the system message, which is made where there is none.
    """
    shown: list[dict[str, Any]] = []
    is_result = False
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if is_result:
                shown[-1] = shown[-1] | {"content": f"{shown[-1]['content']}\n{text}"}
            else:
                shown.append({"role": "user", "content": text})
        else:
            shown.append(_with_calls(message))
        is_result = message["role"] == "tool"
    return _with_tools(shown, tools) if tools else shown


def _with_calls(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        f"<tool_call>{json.dumps(call['function'], ensure_ascii=False)}</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return kept | {"content": "\n".join(part for part in (message["content"], *calls) if part)}


def _with_tools(messages: list[dict[str, Any]], tools: list[Any]) -> list[dict[str, Any]]:
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = f"# Tools\n\n<tools>\n{schemas}\n</tools>"
    first, *others = messages
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [first | {"content": f"{first['content']}\n\n{text}".strip()}, *others]
