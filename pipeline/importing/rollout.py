"""From a conversation to a `Rollout`: what each turn did, and what the answer is worth."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from envs.data.answer_metrics import answer_metrics
from envs.search.trajectory import ActionKind, Rollout, Termination, ToolCall, Turn
from pipeline.importing.conversation import Conversation, Exchange
from pipeline.importing.golds import as_text

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_SEARCH = re.compile(r"<search>(.*?)</search>", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
_BOXED = "\\boxed{"
_CLOSED = ("think", "answer", "search", "tool_call")
"""Tags that a whole turn closes."""
FINISHING = ("finish", "submit", "final_answer")
"""Tools that take the answer."""

POLICY, AGENT = "default_policy", "assistant"


def make_rollout(conversation: Conversation, count_tokens: Callable[[str], int]) -> Rollout:
    """Makes the rollout of a conversation, without belief yet.

    A last turn that calls no tool is the answer: what stands behind its thought in `<answer>` or `\\boxed{}`,
    else all of that. So is what a last call hands to a tool of `FINISHING`. A last turn that leaves a tag
    open was cut off. Where the conversation says no reward, the outcome is the paper's F1 of the answer. The
    `name` of a message is the agent's.

    Args:
        conversation: the rollout as it was written.
        count_tokens: length of a text in tokens.
    """
    *_, last = conversation.exchanges
    rollout = Rollout(conversation.id, conversation.group, conversation.question, seconds=math.nan)
    for index, exchange in enumerate(conversation.exchanges):
        rollout.turns.append(_turn(index, exchange, count_tokens, is_last=exchange is last))
    rollout.answer = rollout.turns[-1].answer
    rollout.termination = conversation.termination or _termination(
        rollout.turns[-1], last.decision["content"]
    )
    if rollout.termination is not Termination.ANSWERED:
        rollout.answer = rollout.turns[-1].answer = None
        ends = {Termination.MALFORMED: ActionKind.MALFORMED, Termination.TOKEN_LIMIT: ActionKind.CUT_OFF}
        rollout.turns[-1].action = ends.get(rollout.termination, rollout.turns[-1].action)
    rollout.metrics = answer_metrics(rollout.answer, conversation.question.golds)
    given = conversation.reward
    rollout.outcome = rollout.metrics["f1_paper"] if given is None else given
    return rollout


def uses_answer_tags(conversations: list[Conversation]) -> bool:
    """Whether any turn writes its answer in `<answer>` tags."""
    return any(
        _ANSWER.search(_spoken(exchange.decision["content"]))
        for conversation in conversations
        for exchange in conversation.exchanges
    )


def _termination(last: Turn, text: str) -> Termination:
    """How a rollout ended that does not say it, by its last turn and what stands in there."""
    if last.action is ActionKind.ANSWER and not last.tool_calls and _is_cut_off(text):
        return Termination.TOKEN_LIMIT
    return Termination.TURN_LIMIT if last.answer is None else Termination.ANSWERED


def _turn(index: int, exchange: Exchange, count_tokens: Callable[[str], int], *, is_last: bool) -> Turn:
    decision = _decision_text(exchange.decision)
    observation = "\n".join(message["content"] for message in exchange.observations)
    calls = _tool_calls(exchange)
    answer = None
    if is_last and calls and calls[-1].tool in FINISHING:
        action, answer = ActionKind.ANSWER, _handed_over(calls[-1].arguments)
    elif calls or any(message["role"] == "tool" for message in exchange.observations):
        action = ActionKind.TOOL
    elif is_last:
        action, answer = ActionKind.ANSWER, _answer(exchange.decision["content"])
    else:
        action = ActionKind.MESSAGE
    return Turn(
        index=index,
        agent=str(exchange.decision.get("name") or AGENT),
        policy=POLICY,
        decision_text=decision,
        action=action,
        query=_query(calls[0].arguments) if calls else None,
        answer=answer,
        tool_calls=calls,
        observation_text=observation,
        num_decision_tokens=count_tokens(decision),
        num_observation_tokens=count_tokens(observation) if observation else 0,
        seconds_generate=math.nan,
        seconds_tool=math.nan,
        seconds_score=math.nan,
    )


def _decision_text(message: dict[str, Any]) -> str:
    thought = message.get("reasoning_content")
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    parts = [
        f"<think>\n{thought}\n</think>" if thought else "",
        message["content"],
        *(f"<tool_call>{call}</tool_call>" for call in calls),
    ]
    return "\n".join(part for part in parts if part)


def _tool_calls(exchange: Exchange) -> list[ToolCall]:
    """The calls of a turn with their results: beside its text, or in its tags."""
    text, beside = exchange.decision["content"], exchange.decision.get("tool_calls", ())
    called = [call["function"] for call in beside] or _written_calls(_spoken(text))
    if not called and exchange.observations:  # a call within the thought, which was answered
        called = _written_calls(text)
    of_tools = [message for message in exchange.observations if message["role"] == "tool"]
    ids = [call.get("id") for call in beside] or [None] * len(called)
    results = _results(ids, of_tools or exchange.observations) if called else []
    return [
        ToolCall(
            tool=str(call.get("name") or "tool"),
            arguments=_named(call.get("arguments")),
            result_text=result,
            seconds=math.nan,
        )
        for call, result in zip(called, results, strict=True)
    ]


def _written_calls(text: str) -> list[dict[str, Any]]:
    """The calls in tags of a text."""
    return [_written_call(found) for found in _TOOL_CALL.findall(text)] or [
        {"name": "search", "arguments": {"query": query.strip()}} for query in _SEARCH.findall(text)
    ]


def _results(ids: list[str | None], messages: list[dict[str, Any]]) -> list[str]:
    """What came back for each call, of which there is one at least.

    A message answers the call whose id it names, else the one in its place. One message may answer several,
    each in its own `<tool_response>`. Where that does not come out even, the first open call has all.
    """
    results, open_calls, rest = [""] * len(ids), list(range(len(ids))), []
    for message in messages:
        name = message.get("tool_call_id")
        named = next((k for k in open_calls if name is not None and ids[k] == name), None)
        if named is None:
            rest.append(message["content"])
        else:
            results[named] = message["content"]
            open_calls.remove(named)
    if len(rest) == 1 and len(open_calls) > 1:
        parts = _TOOL_RESPONSE.findall(rest[0])
        rest = parts if len(parts) == len(open_calls) else rest
    if len(rest) == len(open_calls):
        for k, text in zip(open_calls, rest, strict=True):
            results[k] = text
    elif rest:
        place = open_calls[0] if open_calls else len(ids) - 1
        results[place] = "\n".join(part for part in (results[place], *rest) if part)
    return results


def _written_call(text: str) -> dict[str, Any]:
    """A call that stands as JSON in its tags; text that is none is kept as its argument."""
    try:
        call = json.loads(text)
    except ValueError:
        call = None
    return call if isinstance(call, dict) else {"arguments": text.strip()}


def _named(arguments: Any) -> dict[str, Any]:
    """Arguments with names."""
    if isinstance(arguments, dict):
        return arguments
    return {} if arguments is None else {"text": arguments}


def _query(arguments: dict[str, Any]) -> str | None:
    """What was asked: `query` (or several), else the first argument that is text."""
    value = arguments.get("query", arguments.get("queries"))
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return (
        value
        if isinstance(value, str)
        else next((one for one in arguments.values() if isinstance(one, str)), None)
    )


def _handed_over(arguments: dict[str, Any]) -> str | None:
    """The answer among the arguments of a call: `answer`, else the only text."""
    texts = [value for value in arguments.values() if isinstance(value, str)]
    value = as_text(arguments.get("answer", texts[0] if len(texts) == 1 else None))
    return value.strip() or None if isinstance(value, str) else None


def _spoken(text: str) -> str:
    """What stands behind the thought."""
    return _THOUGHT.sub("", text)


def _is_cut_off(text: str) -> bool:
    """Whether a tag is open at the end."""
    spoken = _spoken(text)
    return any(spoken.rfind(f"<{tag}>") > spoken.rfind(f"</{tag}>") for tag in _CLOSED)


def _answer(text: str) -> str | None:
    spoken = _spoken(text)
    if found := _ANSWER.findall(spoken):
        return found[-1].strip() or None
    return _boxed(spoken) or spoken.strip() or None


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{}` holds, up to the brace that closes it."""
    _, found, rest = text.rpartition(_BOXED)
    depth = 1
    for place, letter in enumerate(rest if found else ""):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return re.sub(r"\\text\{([^{}]*)\}", r"\1", rest[:place]).strip()
    return None
