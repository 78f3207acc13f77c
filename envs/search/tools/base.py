"""Tools and the toolbox. A tool is a typed function whose signature gives its JSON schema.

A failed call has an `error`, which the policy sees and the log keeps. The error is either the policy's own
(unknown tool, bad arguments: `ToolError`) or a failure of the tool (server down, time out: `ToolFailure`).
Only failures count towards the share that stops a run.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError, create_model

from envs.credentials import masked
from envs.errors import InputError
from envs.search.tools.threads import DaemonThreads
from envs.search.trajectory import ToolCall

MAX_RESULT_CHARACTERS = 1_000_000
"""Longer results are cut: no observation shows as much."""


class ToolError(Exception):
    """A mistake of the policy in a call. Its text tells the policy how to correct it. A user's tool may raise
    it.
    """


class ToolFailure(Exception):
    """A call that failed for a reason that the policy does not control. The policy reads its text."""


@dataclass(slots=True)
class ToolResult:
    """The result of a call.

    Attributes:
        text: the text that the policy reads.
        document_ids: the retrieved documents, for the log.
        document_scores: one score per document where the tool has scores, else empty.
        credits: the price that a paid service took.
    """

    text: str
    document_ids: list[str] = field(default_factory=list)
    document_scores: list[float] = field(default_factory=list)
    credits: float = 0.0


class Tool:
    """A typed function that the policy can call. The first paragraph of its docstring is its description.

    Args:
        function: has typed parameters, with `Annotated[str, Field(description=...)]` where an explanation
            helps. Returns a `ToolResult`, a string, or a value to show as JSON.
        name: its name for the policy.
        at_once: whether a call is quicker than handing it to a thread. Asked before each call, because a
            retriever opens late.

    Raises:
        InputError: a parameter has no type, a type that JSON cannot hold, or a name that no argument can have
            (`*args`, `**kwargs`, `_x`).
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
        """Checks `arguments` and calls the function. Raises whatever the function raises, too.

        Raises:
            ToolError: an argument is missing, unknown or of another type.
        """
        try:
            checked = self._arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            known = ", ".join(f"`{name}`" for name in self._arguments.model_fields) or "no arguments"
            hint = {"extra_forbidden": f"{self.name} takes {known}", "missing": "it is missing"}
            what = hint.get(first["type"], first["msg"])
            raise ToolError(f"{self.name}: bad argument `{where}`: {what}") from error
        return as_result(self.function(**vars(checked)))


def as_result(value: Any) -> ToolResult:
    """Converts the return value of a tool's function to a result.

    Numbers and arrays of NumPy count as Python's, a set as its sorted list. What else JSON lacks is
    written as `str` does.

    Raises:
        TypeError, ValueError: `json.dumps` cannot write the value (keys, cycles), or `str` says nothing of it
            (a coroutine, a generator, an object without `__str__`).
    """
    if isinstance(value, ToolResult):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    return ToolResult(text)


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    kind = type(value)
    says_nothing = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    if says_nothing or isinstance(value, Iterator | Awaitable):
        raise TypeError(f"a tool returned {kind.__name__}: return text, or a value that JSON can hold")
    return str(value)


@dataclass(eq=False, slots=True)
class RunningCall:
    """A call that a thread is carrying out."""

    call: ToolCall
    tool: Tool
    started: float
    """By `time.perf_counter`."""
    future: Future[ToolResult] = field(default_factory=Future)
    seconds: float | None = None
    """Its duration, once it has ended."""


_THREADS = DaemonThreads("tool")


class Toolbox:
    """The tools of a task. Calls may come from many threads at once.

    Args:
        tools: the tools, with different names.
        timeout: seconds after which a call counts as failed. Its thread is abandoned, because Python cannot
            stop it. Tools that answer at once have no limit.

    Raises:
        InputError: two tools have the same name.
    """

    def __init__(self, tools: Sequence[Tool], timeout: float = 60.0):
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) != len(tools):
            raise InputError(f"tools must have different names, got {', '.join(tool.name for tool in tools)}")
        self.timeout = timeout

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """JSON schemas of the tools, in the order of the settings."""
        return [tool.schema for tool in self._tools.values()]

    def __call__(self, call: ToolCall) -> ToolCall:
        """Carries out `call` and fills in its result or its error. Raises a bug in a tool of this package."""
        if not self.call_at_once(call):
            running = self.start(call)
            wait([running.future], self.timeout)
            self.finish(running)
        return call

    def call_at_once(self, call: ToolCall) -> bool:
        """Carries out `call` if that is quicker than starting a thread.

        Returns:
            Whether the call was carried out; if not, use `start` and `finish`.
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
        """Starts `call` of a known tool in a thread. Call `finish` when its future is done or time is up."""
        running = RunningCall(call, self._tools[call.tool], time.perf_counter())
        _THREADS.submit(_carry_out, running)
        return running

    def finish(self, running: RunningCall) -> None:
        """Fills in the call's result or error. A call that still runs has failed and is abandoned."""

        def result() -> ToolResult:
            if not running.future.done():
                raise ToolFailure(f"{running.tool.name} took longer than {self.timeout:g} s")
            return running.future.result()

        _enter(running.call, result)
        running.call.seconds = (
            time.perf_counter() - running.started if running.seconds is None else running.seconds
        )


def _enter(call: ToolCall, function: Callable[..., ToolResult], *arguments: Any) -> None:
    """Calls `function` and fills its result or its error into `call`."""
    try:
        result = function(*arguments)
    except ToolError as error:
        call.error = masked(str(error))
    except ToolFailure as error:
        call.error, call.failed = masked(str(error)), True
    else:
        call.result_text, call.credits = result.text[:MAX_RESULT_CHARACTERS], result.credits
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
