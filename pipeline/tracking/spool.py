"""`logs/metrics.jsonl`: every point of a run's metrics, on disk before it is sent."""

from __future__ import annotations

import json
import os
import time
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
