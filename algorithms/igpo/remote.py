"""Calls to the learners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def on_learners(
    group, function: Callable[[Any], Any], *, ids: list[int] | None = None, timeout_seconds: float | None = None
) -> list:
    """What `function` returned on the learners of an RLlib `LearnerGroup`, or those of `ids`; raises what one of them raised.

    RLlib hands back an exception as if it were a result, and leaves out who has not answered after `timeout_seconds`.
    """
    results = group.foreach_learner(function, remote_actor_ids=ids, timeout_seconds=timeout_seconds)
    values = [result.get() for result in results]
    for value in values:
        if isinstance(value, Exception):
            raise value
    return values
