"""Threads that are kept for the next call and never keep the process alive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class DaemonThreads:
    """Calls functions in threads; one more is started whenever all are busy.

    `ThreadPoolExecutor` waits at exit for whatever its threads are doing, so a tool that hangs would hang the
    process; and it has a limit, so tools that hang would take the others' places.
    """

    def __init__(self, name: str):
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Callable[..., Any], tuple]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls `function`, which must not raise, as soon as a thread can."""
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._waiting.put((function, arguments))

    def _work(self) -> None:
        while True:
            function, arguments = self._waiting.get()
            function(*arguments)
            del function, arguments  # an idle thread holds nothing
            self._idle.release()
