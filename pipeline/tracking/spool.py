"""`logs/metrics.jsonl` and `logs/traces.jsonl`: what goes to a tracking server is on disk before it is sent.

Points of metrics stay there. A trace is large, so its line goes some time after the server has it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from envs.durable import write_text
from envs.errors import InputError


class Spool:
    """Points wait here for the checkpoint that contains them.

    `resumed_from` is the iteration of the checkpoint that a resumed run goes on from, None for a fresh run:
    points of earlier attempts beyond it do not count. Raises InputError naming a line that is no point (one
    that a kill cut short is dropped).
    """

    def __init__(self, path: Path, resumed_from: int | None):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._waiting = self._read(resumed_from) if resumed_from is not None else []
        text = "".join(json.dumps(point) + "\n" for point in self._waiting)
        write_text(path, text)

    def add(self, iteration: int, metrics: dict[str, float]) -> None:
        """Keeps a point. It is on disk when this returns."""
        point = {"iteration": iteration, "timestamp": int(time.time() * 1000), "metrics": metrics}
        with self.path.open("a") as file:
            file.write(json.dumps(point) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._waiting.append(point)

    def take(self, iteration: int) -> list[dict[str, Any]]:
        """Returns the points up to and including `iteration` that were not taken before."""
        taken = [point for point in self._waiting if point["iteration"] <= iteration]
        self._waiting = [point for point in self._waiting if point["iteration"] > iteration]
        return taken

    def _read(self, resumed_from: int) -> list[dict[str, Any]]:
        points = []
        lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                point = json.loads(line)
                is_wanted = point["iteration"] <= resumed_from
            except (ValueError, KeyError, TypeError):
                if number < len(lines):
                    raise InputError(
                        f"{self.path}, line {number} is not JSON; remove the line to go on"
                    ) from None
                continue
            if is_wanted:
                points.append(point)
        return points


class TraceSpool:
    """Traces wait here for the checkpoint that contains their rollouts, and then for the server.

    A line of the file is a trace, or the id of one that the server has: `{"sent": "tr-1f"}`. `resumed_from`
    is as in `Spool`. Thread-safe. A line that is neither (one that a kill cut short) is dropped.
    """

    def __init__(self, path: Path, resumed_from: int | None):
        self._path = path
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Any]] = {}
        self._taken: set[str] = set()
        self._sent = 0
        """Traces that the server has and whose lines are still in the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        if resumed_from is not None:
            self._read(lines, resumed_from)
        if lines:
            self._rewrite()

    def add(self, traces: Collection[dict[str, Any]]) -> None:
        """Keeps traces. They are on disk when this returns."""
        with self._lock, self._path.open("a") as file:
            for trace in traces:
                self._kept[trace["id"]] = trace
                file.write(json.dumps(trace) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def take(self, iteration: int) -> list[dict[str, Any]]:
        """Returns the traces up to and including `iteration` that were not taken before."""
        with self._lock:
            taken = [trace for trace in self._kept.values() if trace["iteration"] <= iteration]
            taken = [trace for trace in taken if trace["id"] not in self._taken]
            self._taken |= {trace["id"] for trace in taken}
        return taken

    def sent(self, trace_id: str) -> None:
        """Drops a trace that the server has, and notes it on disk, where a kill leaves the note."""
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps({"sent": trace_id}) + "\n")
            self._sent += self._kept.pop(trace_id, None) is not None

    def tidy(self, *, at_end: bool = False) -> None:
        """Removes the lines of traces that the server has, if they are half of all, or any `at_end`.

        So the file is written anew a few times, and not once a commit, where many commits are sent at once.
        """
        with self._lock:
            if self._sent and (at_end or self._sent >= len(self._kept)):
                self._rewrite()

    def _read(self, lines: list[str], resumed_from: int) -> None:
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            match found:
                case {"sent": str(trace_id)}:
                    self._kept.pop(trace_id, None)
                case {"id": str(trace_id), "iteration": int(iteration)} if iteration <= resumed_from:
                    self._kept[trace_id] = found

    def _rewrite(self) -> None:
        write_text(self._path, "".join(json.dumps(trace) + "\n" for trace in self._kept.values()))
        self._sent = 0
