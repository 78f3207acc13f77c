"""Calls outside this thread: on learners, on env runners, and in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def on_learners(
    group: Any,
    function: Callable[[Any], Any],
    *,
    ids: list[int] | None = None,
    timeout_seconds: float | None = None,
) -> list:
    """Calls `function(learner)` on every learner and waits for the results.

    RLlib's own `foreach_learner` returns exceptions as if they were results; here they are raised.

    Args:
        group: RLlib's `LearnerGroup`.
        function: what to call; it must survive pickling.
        ids: indices of the learners to call; None: all.
        timeout_seconds: how long to wait; None: without limit. Learners that have not answered by then are
            left out of the results.

    Returns:
        One result per learner that answered, in the order of their indices.

    Raises:
        Exception: the first one that a learner raised.
    """
    results = group.foreach_learner(function, remote_actor_ids=ids, timeout_seconds=timeout_seconds)
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
