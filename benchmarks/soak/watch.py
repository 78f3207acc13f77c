"""Looks at a run's processes from outside, every few seconds: memory, descriptors, size of its folder."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import duckdb
import psutil

from benchmarks.kill_matrix.run import run_folder

MIB = 2**20
SAMPLES = "samples.jsonl"
NAMES = {
    "ray::IGPOEnvRunner": "env runner",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
"""How a process's title begins, to its name here."""


class Watcher(threading.Thread):
    """Appends a line per process and look to `folder/samples.jsonl`, until `stop`.

    Args:
        folder: the folder of the soak.
        pids: returns name to pid of the driver and the servers; None for one that is not there.
        every: seconds between looks.
        part: which part of the soak this is, from 1. The run's processes and servers start anew in each.
        minutes: what the earlier parts span.
    """

    def __init__(
        self,
        folder: Path,
        pids: Callable[[], dict[str, int | None]],
        every: float,
        *,
        part: int = 1,
        minutes: float = 0.0,
    ):
        super().__init__(daemon=True)
        self._folder, self._pids, self._every, self._part = folder, pids, every, part
        self._began, self._ended = time.monotonic() - 60 * minutes, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._every):
            lines = [json.dumps({"part": self._part} | sample) for sample in self.look()]
            with (self._folder / SAMPLES).open("a") as file:
                file.writelines(f"{line}\n" for line in lines)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def look(self) -> list[dict]:
        """A row per process, and one of the run's folder."""
        minutes = (time.monotonic() - self._began) / 60
        rows = []
        for name, pid in self._pids().items():
            if pid is None:
                continue
            rows += [{"minutes": minutes, **row} for row in _measured(name, pid)]
        run = run_folder(self._folder)
        if run is not None:
            rows.append({"minutes": minutes, "process": "folder", "mib": folder_bytes(run) / MIB})
        return rows


def looked(folder: Path) -> tuple[int, float]:
    """How many parts looked at a run in `folder`, and the minutes that they span together."""
    if not (folder / SAMPLES).exists():
        return 0, 0.0
    samples = duckdb.read_json(str(folder / SAMPLES), format="newline_delimited")
    ((parts, minutes),) = samples.query("samples", "SELECT max(part), max(minutes) FROM samples").fetchall()
    return parts, minutes


def _measured(name: str, pid: int) -> list[dict]:
    """The process `pid` as `name`, and those below it that `NAMES` knows, numbered by age."""
    try:
        parent = psutil.Process(pid)
        found = [(name, parent)] + [
            (label, child)
            for child in sorted(parent.children(recursive=True), key=lambda child: child.create_time())
            if (label := _label(child)) is not None
        ]
    except psutil.NoSuchProcess:
        return []
    rows, seen = [], {}
    for label, process in found:
        seen[label] = seen.get(label, 0) + 1
        numbered = f"{label} {seen[label]}" if label == "env runner" else label
        try:
            with process.oneshot():
                rows.append(
                    {
                        "process": numbered,
                        "mib": process.memory_info().rss / MIB,
                        "descriptors": process.num_fds(),
                        "threads": process.num_threads(),
                    }
                )
        except psutil.NoSuchProcess:
            continue
    return rows


def _label(process: psutil.Process) -> str | None:
    try:
        words = process.cmdline() or [process.name()]
    except psutil.Error:
        return None
    names = (words[0], Path(words[0]).name)
    return next((label for start, label in NAMES.items() if any(n.startswith(start) for n in names)), None)


def folder_bytes(folder: Path) -> int:
    """The size of all files below `folder`; a file or folder that goes away meanwhile counts nothing."""
    total = 0
    for place, folders, files in os.walk(folder):  # which passes over what is gone; `rglob` raises
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                total += Path(place, name).lstat().st_size
    return total
