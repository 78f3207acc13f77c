"""Ctrl-C once: finish what is under way, save, and say how to go on. Twice: stop now."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interrupts:
    """A context in which SIGINT and SIGTERM ask for a clean end. `requested` says whether one came.

    The second signal raises KeyboardInterrupt where the program stands. `on_first` is called with the signal's name.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, on_first: Callable[[str], None]):
        self._on_first = on_first
        self._previous: dict[int, Any] = {}
        self.requested = False

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._on_first(signal.Signals(number).name)
