"""Ctrl-C once: finish what is under way, save, and say how to go on. Twice: stop now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interrupts:
    """A context in which SIGINT and SIGTERM ask for a clean end. `requested` names the one that came
    (`Ctrl-C` for SIGINT).

    The second signal raises KeyboardInterrupt where the program stands. `on_first` is called with that name.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, on_first: Callable[[str], None]):
        self._on_first = on_first
        self._previous: dict[int, Any] = {}
        self._telling: threading.Thread | None = None
        self.requested: str | None = None

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._telling is not None:
            self._telling.join(timeout=1.0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # In a thread of its own: the signal may have come in the middle of a write to the very same stream.
        self._telling = threading.Thread(target=self._on_first, args=(self.requested,), daemon=True)
        self._telling.start()
