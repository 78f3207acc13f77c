"""Kills of `igpo study` and `igpo warm-start`: the same command again has to come out as if nobody had killed
it.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.kill_matrix.beside import Beside
from benchmarks.kill_matrix.cells import TINY, Kill
from benchmarks.kill_matrix.phases import strike
from benchmarks.kill_matrix.run import NAME, Command, write_experiment
from benchmarks.kill_matrix.uninterrupted import Say, keep_timings, kept_timings
from envs.demonstrations.demonstration import Demonstration, save_demonstrations
from envs.world.config import WorldSettings
from envs.world.world import build_world
from pipeline.verification.same_weights import compare_weights

ATTEMPTS = 3
"""Commands again after which it counts as lost."""
SOON = 0.1
"""Seconds: a command that ends sooner is not killed."""
DEMONSTRATIONS = 64
PLAN: dict[str, Any] = {
    "budget_tokens": 2_000,
    "evaluate_at_tokens": [1_000],
    "baseline": "grpo",
    "candidate": "igpo",
    "settings": {"evaluation_questions": 20},
    "methods": {
        name: {"config": f"{NAME}.yaml", "settings": {"preset": name}, "learning_rate": 2e-4}
        for name in ("igpo", "grpo")
    },
    "difficulties": {"easy": {"env_config.world.hops": {1: 0.5, 2: 0.5}}},
    "grids": [{"methods": ["igpo", "grpo"], "difficulties": ["easy"], "seeds": [0, 1]}],
}
WORDS = {
    "igpo study": ("pipeline.cli.igpo", "study", "plan.yaml", "--out", "out"),
    "igpo warm-start": (
        *("pipeline.cli.igpo", "warm-start", f"{NAME}.yaml", "--demonstrations", "demos.jsonl"),
        *("--out", "out", "--epochs", "2"),
    ),
}


def try_command(kill: Kill, out: Path, folder: Path, chance: random.Random, say: Say) -> dict[str, Any]:
    """Starts the command of `kill`, kills it at a random moment, starts it until it ends well, compares."""
    name = kill.cell.configuration
    reference, seconds = _uninterrupted(out, name, say)
    wait = chance.uniform(0, seconds)
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        _prepare(folder, name)
        with Command(folder, *WORDS[name]) as command:
            time.sleep(wait)
            is_too_late = command.is_over or _is_whole(name, folder)
            killed = None if is_too_late else strike(kill, command, Beside(folder, name), chance)
            struck = time.monotonic()
            codes = [command.end()]
        if killed or wait < SOON:
            break
        wait /= 2  # the machine is quieter than it was for the uninterrupted one: it had ended before
    seconds_to_end, left = time.monotonic() - struck, sorted(_files(folder / "out"))
    while not (is_done := _is_done(name, folder, codes[-1])) and len(codes) <= ATTEMPTS:
        with Command(folder, *WORDS[name]) as again:
            codes.append(again.end())
    return {
        "moment": f"{wait:.3f} s after it was started",
        "killed": killed,
        "left": {"files": left},
        "codes": codes,
        "seconds_to_end": round(seconds_to_end, 1),
        "last_words": command.last_words,
        "lost": not is_done,
        **(_compare(reference, folder / "out") if is_done else {}),
        "reads": 0,
        "reads_failed": 0,
    }


def _uninterrupted(out: Path, name: str, say: Say) -> tuple[Path, float]:
    """What the command writes where nobody kills it, and how many seconds it takes."""
    folder = out / "uninterrupted" / name.replace(" ", "_")
    if kept := kept_timings(folder, name, say):
        return folder / "out", kept["seconds"]
    shutil.rmtree(folder, ignore_errors=True)
    _prepare(folder, name)
    started = time.monotonic()
    with Command(folder, *WORDS[name]) as command:
        code = command.end()
    if code:
        raise RuntimeError(f"the uninterrupted command failed ({command.output}): {command.last_words}")
    seconds = time.monotonic() - started
    keep_timings(folder, {"seconds": seconds})
    return folder / "out", seconds


def _prepare(folder: Path, name: str) -> None:
    write_experiment(folder, "synchronous")
    if name == "igpo study":
        (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
        return
    world = build_world(WorldSettings(**TINY["env_config"]["world"]))
    titles = {document.id: document.title for document in world.documents}
    made = [
        Demonstration(question, [titles[document] for document in question.gold_document_ids])
        for question in world.questions("train")[:DEMONSTRATIONS]
    ]
    save_demonstrations(made, folder / "demos.jsonl")


def _is_done(name: str, folder: Path, code: int) -> bool:
    """A command that was killed may have written its result before."""
    return code == 0 or _is_whole(name, folder)


def _is_whole(name: str, folder: Path) -> bool:
    """A warm start's folder is whole or absent; a study's grows."""
    return name == "igpo warm-start" and (folder / "out").exists()


_NONE = object()
"""Stands for a value that one of two tables lacks."""


def _compare(before: Path, now: Path) -> dict[str, int]:
    """Tables and tensors of two results. What depends on time is left out."""
    tables = [_tables(folder) for folder in (before, now)]
    values = sum(len(column) for table in tables[0].values() for column in table.values())
    differ = sum(
        one != other
        for path in tables[0].keys() | tables[1].keys()
        for name in tables[0].get(path, {}).keys() | tables[1].get(path, {}).keys()
        for one, other in zip_longest(
            *(table.get(path, {}).get(name, []) for table in tables), fillvalue=_NONE
        )
    )
    tensors, different = compare_weights(before, now)
    return {"values": values, "values_different": differ, "tensors": tensors, "tensors_different": different}


def _tables(folder: Path) -> dict[str, dict[str, list]]:
    found = {}
    for path in _files(folder):
        if path.endswith(".parquet"):
            table = pq.read_table(folder / path).to_pydict()
            found[path] = {name: column for name, column in table.items() if name != "seconds"}
    return found


def _files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
