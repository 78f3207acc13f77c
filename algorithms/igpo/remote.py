"""Calls outside this thread: on learners, on env runners, in the background; how their failures are told."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from envs.errors import InputError

PROBE_SECONDS = 30.0
"""Time limit for asking Ray why an env runner is not there."""
_FRAME = re.compile(r'  File ".*", line \d+, in ')


class StartError(RuntimeError):
    """An env runner or a learner that did not start. Its text is one sentence with the cause."""


@contextmanager
def starting(groups: Any) -> Generator[None]:
    """A block that starts env runners and learners, whose failure is told by its cause.

    RLlib goes on without the env runners that did not start, and fails at the lack of any.

    Args:
        groups: the algorithm, whose `env_runner_group` the block makes.

    Raises:
        StartError: an env runner's or a learner's constructor raised.
        InputError: it raised that.
    """
    try:
        yield
    except Exception as error:
        check_started(getattr(groups, "env_runner_group", None))
        if isinstance(error, RayTaskError):
            raise _start_error("a learner", str(error)) from error
        raise
    check_started(groups.env_runner_group)


def check_started(group: Any) -> None:
    """Raises the cause if an env runner of RLlib's `EnvRunnerGroup` raised in its constructor.

    One whose process was lost is another matter: Ray starts it again.
    """
    if group is None:
        return
    healthy = set(group.healthy_env_runner_ids())
    for runner_id, actor in group._worker_manager.actors().items():
        if runner_id in healthy:
            continue
        try:
            ray.get(actor.ping.remote(), timeout=PROBE_SECONDS)
        except RayActorError as error:
            if error.actor_init_failed:
                raise _start_error(f"env runner {runner_id}", str(error)) from error
        except (RayError, GetTimeoutError):
            continue


def last_exception(text: str) -> str:
    """Type and message of the exception at the end of a traceback, in one line; a text without one whole."""
    lines = text.strip().splitlines()
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    if frames:
        lines = lines[frames[-1] + 1 :]
        while lines and lines[0].startswith("    "):  # source and carets
            lines = lines[1:]
    return " ".join(" ".join(lines).split())


def with_traceback(what: str, text: str, kind: type[Exception] = RuntimeError) -> Exception:
    """An error of one sentence, `what` and the cause, for a traceback that crossed processes as text.

    The text is a note of the error, so logs show it.
    """
    error = kind(f"{what}: {last_exception(text)}")
    error.add_note(text)
    return error


def _start_error(what: str, text: str) -> Exception:
    cause = last_exception(text)
    bad_input = f"{InputError.__module__}.{InputError.__qualname__}: "
    if cause.startswith(bad_input):
        return InputError(f"{what} did not start: {cause.removeprefix(bad_input)}")
    return StartError(f"{what} did not start: {cause}")


def on_learners(
    group: Any,
    function: Callable[[Any], Any],
    *,
    ids: list[int] | None = None,
    timeout_seconds: float | None = None,
    healthy_only: bool = True,
) -> list:
    """Calls `function(learner)` on every learner and waits for the results.

    RLlib's own `foreach_learner` returns exceptions as if they were results; here they are raised.

    Args:
        group: RLlib's `LearnerGroup`.
        function: what to call; it must survive pickling.
        ids: indices of the learners to call; None: all.
        timeout_seconds: how long to wait; None: without limit. Learners that have not answered by then are
            left out of the results.
        healthy_only: leave out learners whose last call failed.

    Returns:
        One result per learner that answered, in the order of their indices.

    Raises:
        Exception: the first one that a learner raised.
    """
    results = group.foreach_learner(
        function, remote_actor_ids=ids, timeout_seconds=timeout_seconds, healthy_only=healthy_only
    )
    values = [result.get() for result in results]
    for value in values:
        if isinstance(value, Exception):
            raise value
    return values


def on_runners(group: Any, function: Callable[[Any], Any]) -> list:
    """Calls `function(runner)` on every healthy env runner and waits for the results.

    Args:
        group: RLlib's `EnvRunnerGroup`.
        function: what to call; it must survive pickling.

    Returns:
        One result per runner.

    Raises:
        RuntimeError: a runner did not answer.
    """
    expected = group.num_healthy_env_runners()
    values = group.foreach_env_runner(function)
    if len(values) != expected:
        raise RuntimeError(f"{expected - len(values)} of {expected} env runners failed: see their logs")
    return values


def in_background(function: Callable, *args: Any, **kwargs: Any) -> Future:
    """Calls `function` in a daemon thread.

    Returns:
        A future of its result. An exception is raised where the result is asked for.
    """
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="sampling", daemon=True).start()
    return future
