"""Ctrl-C once: finish the iteration, save, and print how to resume. Twice: stop now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interrupts:
    """A context in which SIGINT and SIGTERM ask for a clean end; a second signal raises KeyboardInterrupt.

    Args:
        on_first: called with the name of the first signal (`Ctrl-C` for SIGINT).

    Attributes:
        requested: that name; None before any signal.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, on_first: Callable[[str], None]):
        self._on_first = on_first
        self._previous: dict[int, Any] = {}
        self._notification: threading.Thread | None = None
        self.requested: str | None = None

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._notification is not None:
            self._notification.join(timeout=1.0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # In its own thread: the signal may have interrupted a write to the same stream.
        self._notification = threading.Thread(target=self._on_first, args=(self.requested,), daemon=True)
        self._notification.start()
