"""A tool call written as JSON: ``{"name": "search", "arguments": {"query": "..."}}``.

What is wrong inside well-formed tags is a tool error, which the policy sees and may mend, not a format error
(SPEC §3).
"""

from __future__ import annotations

import json

from envs.search.protocols.base import Action
from envs.search.trajectory import ActionKind


def read_tool_call(text: str, arguments_key: str = "arguments") -> Action:
    """The TOOL action of a JSON object with `name` and `arguments_key`; with `error` set where there is no
    such call in it.
    """
    try:
        call = json.loads(text)
        json.dumps(call, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        return Action(ActionKind.TOOL, error=f"the tool call is not valid JSON: {reason}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return Action(
            ActionKind.TOOL, error=f'the tool call must be an object with "name" and "{arguments_key}"'
        )
    arguments = call.get(arguments_key, {})
    if not isinstance(arguments, dict):
        return Action(ActionKind.TOOL, tool=call["name"], error=f'"{arguments_key}" must be an object')
    return Action(ActionKind.TOOL, tool=call["name"], arguments=arguments)
