"""The cells of the matrix: which process is killed, in which phase, of a run of which configuration."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

ITERATIONS = 4
TINY: dict[str, Any] = {
    "model_path": "tiny",
    "prompts_per_iteration": 4,
    "group_size": 4,
    "lr": 2e-4,
    "evaluation_interval": 2,
    "evaluation_questions": 4,
    "engine": {"kind": "transformers", "max_num_seqs": 32},
    "env_config": {
        "corpus": "world",
        "world": {"entities": 50, "train_questions": 100, "heldout_questions": 20},
        "max_turns": 4,
        "max_turn_tokens": 16,
        "max_context_tokens": 512,
    },
}
TWO_ROLES = [
    {"name": "searcher", "actions": ["search", "answer"], "policy": "default_policy"},
    {"name": "reader", "actions": ["message"], "reads": "searcher", "policy": "default_policy"},
]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "lag 1": {"max_weight_lag": 1},
    "two runners": {"num_env_runners": 2},
    "two learners": {"num_learners": 2},
    "two agents": {"env_config": TINY["env_config"] | {"roles": TWO_ROLES, "max_turns": 6}},
    "LoRA": {"lora": {"rank": 4, "targets": ["q_proj", "v_proj"]}},
    "vLLM": {"engine": {"kind": "vllm", "kv_cache_gib": 0.06, "max_num_seqs": 32}},
    "restored": {},
    "servers": {},
    "small disk": {},
    "igpo study": {},
    "igpo warm-start": {},
}
"""Configuration to what it changes of `TINY`. `restored` begins from the synchronous run's weights; `servers`
has its retriever and its MLflow store behind HTTP; `small disk` writes to a file system of its own; the last
two are other commands than a training run."""
LAST_DIGITS = ("servers",)
"""Answers over HTTP come in another order each time, so the engine's batches differ, and with them the last
digits of what it computes. What is lost or doubled counts, values do not.
"""
OTHER_COMMANDS = ("igpo study", "igpo warm-start")
PROCESSES = {
    "driver": "SIGKILL",
    "env runner": "SIGKILL",
    "learner": "SIGKILL to one of them",
    "gcs": "SIGKILL",
    "raylet": "SIGKILL",
    "all": "SIGKILL to every process of the run",
    "all, SIGTERM": "SIGTERM to every process of the run",
    "Ctrl-C twice": "SIGINT twice to the driver's group",
    "retriever": "SIGKILL to the server, which is started again 2 to 10 s later",
    "MLflow": "SIGKILL to the server, which is started again 2 to 10 s later",
    "locked store": "another process holds MLflow's SQLite store for 2 to 10 s",
    "full disk": "the disk is full until the command has ended",
}
AROUND = ("retriever", "MLflow", "locked store", "full disk")
"""What is not a process of the run."""
PHASES = {
    "start": "policy and engine start, Ray is there",
    "evaluation": "held-out questions before training",
    "sampling": "rollouts and belief",
    "learning": "credit and update",
    "push": "weights go to the engines",
    "log": "a Parquet file is being written",
    "checkpoint": "a checkpoint is being written",
    "commit": "the checkpoint is there, the rest of its iteration is not",
    "end": "the log is merged, results are written",
    "any": "any moment of the command",
}
"""Phase to what happens then."""
WITHOUT_RUNNER = ("start", "log", "checkpoint", "commit", "end")
"""Phases in which an env runner has nothing to lose, or is not there."""
ELSEWHERE = (
    ("driver", "sampling"),
    ("driver", "learning"),
    ("env runner", "sampling"),
    ("all", "checkpoint"),
)
"""What is killed in configurations of a training run other than the synchronous one."""
OF_SERVERS = (
    ("retriever", "evaluation"),
    ("retriever", "sampling"),
    ("MLflow", "sampling"),
    ("MLflow", "checkpoint"),
    ("MLflow", "commit"),
    ("MLflow", "end"),
)
"""What is killed beside a run of configuration `servers`, too."""
OF_STORE = ("sampling", "checkpoint", "commit", "end")
"""Phases of the synchronous run in which the store is locked."""
OF_DISK = ("sampling", "log", "checkpoint", "commit", "end")
"""Phases in which the disk of configuration `small disk` fills up."""
OF_COMMANDS = (
    ("driver", "igpo study"),
    ("all", "igpo study"),
    ("Ctrl-C twice", "igpo study"),
    ("driver", "igpo warm-start"),
)
"""What is killed of the other commands. A warm start is one process, and keeps what it has at Ctrl-C."""
QUICK = (
    ("driver", "sampling", "synchronous"),
    ("env runner", "sampling", "synchronous"),
    ("gcs", "learning", "synchronous"),
    ("raylet", "sampling", "synchronous"),
    ("driver", "checkpoint", "synchronous"),
    ("all", "commit", "synchronous"),
    ("driver", "log", "synchronous"),
    ("gcs", "end", "synchronous"),
    ("all, SIGTERM", "learning", "synchronous"),
    ("driver", "sampling", "lag 1"),
)


@dataclass(frozen=True)
class Cell:
    """One cell, killed `number` times."""

    process: str
    phase: str
    configuration: str

    @property
    def name(self) -> str:
        return f"{self.configuration} / {self.process} / {self.phase}"


@dataclass(frozen=True)
class Kill:
    """One kill of a cell. Its random moment follows from `seed`."""

    cell: Cell
    number: int

    @property
    def name(self) -> str:
        return f"{self.cell.name} / {self.number}"

    def chance(self, seed: int) -> random.Random:
        return random.Random(f"{seed} {self.name}")


def quick_cells() -> list[Cell]:
    return [Cell(*cell) for cell in QUICK]


def all_cells() -> list[Cell]:
    """Every process in every phase of the synchronous run, less in the other configurations and commands."""
    cells = [
        Cell(process, phase, "synchronous")
        for process in PROCESSES
        for phase in PHASES
        if phase != "any"
        and process not in ("learner", *AROUND)  # one learner lives in the driver
        and (process != "env runner" or phase not in WITHOUT_RUNNER)
    ]
    for configuration in CONFIGURATIONS:
        if configuration not in ("synchronous", "small disk", *OTHER_COMMANDS):
            cells += [Cell(process, phase, configuration) for process, phase in ELSEWHERE]
    cells.append(Cell("learner", "learning", "two learners"))
    cells += [Cell(process, phase, "servers") for process, phase in OF_SERVERS]
    cells += [Cell("locked store", phase, "synchronous") for phase in OF_STORE]
    cells += [Cell("full disk", phase, "small disk") for phase in OF_DISK]
    return cells + [Cell(process, "any", command) for process, command in OF_COMMANDS]


def kills_of(cells: list[Cell], each: int) -> list[Kill]:
    """`each` kills of every cell; all cells once before any cell twice."""
    return [Kill(cell, number) for number in range(1, each + 1) for cell in cells]
