"""Reusable threads that do not keep the process alive."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class DaemonThreads:
    """Calls functions in threads, and starts another thread whenever all are busy.

    `ThreadPoolExecutor` does not fit: it waits for its threads at exit, so a hanging tool would hang the
    process, and it has a limit, so hanging tools would block the others.

    Args:
        name: name of the threads.
    """

    def __init__(self, name: str):
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[Callable[..., Any], tuple]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls `function` in a thread, as soon as one is free. `function` must not raise."""
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._waiting.put((function, arguments))

    def _work(self) -> None:
        while True:
            function, arguments = self._waiting.get()
            function(*arguments)
            del function, arguments  # an idle thread holds nothing
            self._idle.release()
