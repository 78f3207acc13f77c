"""What a tool is: a typed function that a decision may call, with a JSON schema made from its signature.

A failed call is a result with an `error`, which the policy sees and the log keeps. An error is the policy's
own (unknown tool,
bad arguments: `ToolError`) or a failure of the tool (server down, time out: `ToolFailure`); only failures
count towards the share that stops a run.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from envs.errors import InputError
from envs.search.tools.threads import DaemonThreads
from envs.search.trajectory import ToolCall


class ToolError(Exception):
    """A call that the policy got wrong; the text tells it how to do better.

    A user's tool may raise it too.
    """


class ToolFailure(Exception):
    """A call that failed for a reason outside of the policy's hands; the policy reads the text."""


@dataclass(slots=True)
class ToolResult:
    """What a tool returns: the text that the policy reads, and what the log keeps besides."""

    text: str
    document_ids: list[str] = field(default_factory=list)
    document_scores: list[float] = field(default_factory=list)
    """One per document where the tool has scores, else empty."""
    credits: float = 0.0
    """What a paid service took for the call."""


class Tool:
    """A typed function as the policy sees it. The first paragraph of its docstring says what it is for.

    Args:
        function: takes typed parameters, `Annotated[str, Field(description=...)]` where a word of explanation
            helps; returns a `ToolResult`, or anything that is shown as text (JSON where it is no string).
        name: what the policy calls it.
        at_once: whether a call takes less time than handing it to a thread would. Asked before each call,
            since a retriever opens late.

    Raises:
        InputError: a parameter without a type, of a type that JSON can't carry, or with a name that no
            argument can have (`*args`, `**kwargs`, `_x`).
    """

    def __init__(self, function: Callable[..., Any], name: str, at_once: Callable[[], bool] = lambda: False):
        self.name = name
        self.at_once = at_once
        self.function = function
        try:
            parameters = inspect.signature(function, eval_str=True).parameters.values()
        except NameError as error:
            raise InputError(
                f"tool {self.name!r}: a type of its parameters is not known where it is called: {error}"
            ) from error
        fields: dict[str, Any] = {}
        for parameter in parameters:
            is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if parameter.annotation is parameter.empty or not is_named or parameter.name.startswith("_"):
                raise InputError(
                    f"tool {self.name!r}: its parameter {parameter.name!r} needs a name and a type, as in "
                    "`text: str`"
                )
            fields[parameter.name] = (
                parameter.annotation,
                ... if parameter.default is parameter.empty else parameter.default,
            )
        try:
            self._arguments: type[BaseModel] = create_model(
                self.name, __config__=ConfigDict(extra="forbid"), **fields
            )
            self._arguments.model_json_schema()
        except PydanticUserError as error:
            raise InputError(
                f"tool {self.name!r}: JSON can't carry a parameter's type: {str(error).splitlines()[0]}"
            ) from error

    @property
    def schema(self) -> dict[str, Any]:
        """Name, description and JSON schema of the parameters, in the form that chat templates take."""
        parameters = self._arguments.model_json_schema()
        parameters.pop("title")
        for parameter in parameters["properties"].values():
            parameter.pop("title", None)
        description = " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[0].split())
        return {
            "type": "function",
            "function": {"name": self.name, "description": description, "parameters": parameters},
        }

    def __call__(self, arguments: dict[str, Any]) -> ToolResult:
        """Checks `arguments` and calls the function.

        Raises ToolError for bad ones, and whatever the function raises.
        """
        try:
            checked = self._arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ToolError(f"{self.name}: bad argument `{where}`: {first['msg']}") from error
        return as_result(self.function(**vars(checked)))


def as_result(value: Any) -> ToolResult:
    """What a tool's function returned, as a result.

    Raises what `json.dumps` does for a value that is no JSON (keys, circles).
    """
    if isinstance(value, ToolResult):
        return value
    return ToolResult(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


@dataclass(eq=False, slots=True)
class RunningCall:
    """A call that a thread carries out."""

    call: ToolCall
    tool: Tool
    started: float
    """By `time.perf_counter`."""
    future: Future[ToolResult] = field(default_factory=Future)
    seconds: float | None = None
    """How long it took, once it is over."""


_THREADS = DaemonThreads("tool")


class Toolbox:
    """The tools of a task. Calls may come from many threads at once.

    Args:
        tools: with different names.
        timeout: seconds after which a call counts as failed. What it was doing is abandoned, not stopped:
            Python cannot. Tools that answer at once have no limit.
    """

    def __init__(self, tools: Sequence[Tool], timeout: float = 60.0):
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) != len(tools):
            raise InputError(f"tools must have different names, got {', '.join(tool.name for tool in tools)}")
        self.timeout = timeout

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """What a protocol shows to the policy, in the order of the settings."""
        return [tool.schema for tool in self._tools.values()]

    def __call__(self, call: ToolCall) -> ToolCall:
        """Carries out `call` and fills in its result or its error.

        A bug in a tool of this package is raised.
        """
        if not self.call_at_once(call):
            running = self.start(call)
            wait([running.future], self.timeout)
            self.finish(running)
        return call

    def call_at_once(self, call: ToolCall) -> bool:
        """Carries out a `call` that is over sooner than a thread could begin with it.

        Returns False for any other.
        """
        tool = self._tools.get(call.tool)
        if tool is None:
            call.error = f"unknown tool {call.tool!r}, known: {', '.join(self._tools)}"
            return True
        if not tool.at_once():
            return False
        started = time.perf_counter()
        _enter(call, tool, call.arguments)
        call.seconds = time.perf_counter() - started
        return True

    def start(self, call: ToolCall) -> RunningCall:
        """Lets a thread carry out `call` of a known tool.

        When its future is done, or `timeout` seconds have passed: `finish`.
        """
        running = RunningCall(call, self._tools[call.tool], time.perf_counter())
        _THREADS.submit(_carry_out, running)
        return running

    def finish(self, running: RunningCall) -> None:
        """Fills in the call's result or its error; a call that is not over yet failed, and is abandoned."""

        def result() -> ToolResult:
            if not running.future.done():
                raise ToolFailure(f"{running.tool.name} took longer than {self.timeout:g} s")
            return running.future.result()

        _enter(running.call, result)
        running.call.seconds = (
            time.perf_counter() - running.started if running.seconds is None else running.seconds
        )


def _enter(call: ToolCall, function: Callable[..., ToolResult], *arguments: Any) -> None:
    """Into `call` goes what `function` returns, or its error."""
    try:
        result = function(*arguments)
    except ToolError as error:
        call.error = str(error)
    except ToolFailure as error:
        call.error, call.failed = str(error), True
    else:
        call.result_text, call.credits = result.text, result.credits
        call.document_ids, call.document_scores = list(result.document_ids), list(result.document_scores)


def _carry_out(running: RunningCall) -> None:
    future = running.future
    try:
        result = running.tool(running.call.arguments)
    except BaseException as error:
        running.seconds = time.perf_counter() - running.started
        future.set_exception(error)
    else:
        running.seconds = time.perf_counter() - running.started
        future.set_result(result)
