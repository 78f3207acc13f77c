"""Calls that leave this thread: to the learners, and into the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def on_learners(
    group,
    function: Callable[[Any], Any],
    *,
    ids: list[int] | None = None,
    timeout_seconds: float | None = None,
) -> list:
    """What `function` returned on the learners of an RLlib `LearnerGroup`, or those of `ids`; raises what one
    of them raised.

    RLlib hands back an exception as if it were a result, and leaves out who has not answered after
    `timeout_seconds`.
    """
    results = group.foreach_learner(function, remote_actor_ids=ids, timeout_seconds=timeout_seconds)
    values = [result.get() for result in results]
    for value in values:
        if isinstance(value, Exception):
            raise value
    return values


def in_background(function: Callable, *args) -> Future:
    """Calls `function` in a thread of its own, which does not keep the process alive."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="sampling", daemon=True).start()
    return future
