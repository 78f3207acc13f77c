"""The plan of a study: its YAML file, and the cells that follow from it.

A cell is one training run: a method, a difficulty, a seed, a budget of sampled tokens. The tuning cells try
learning rates on another seed and another world than any that is reported; a method's reported cells take the
rate that did best.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from algorithms.credit import find_preset
from envs.errors import InputError
from envs.settings import Settings
from envs.user_code import code_hash, import_function
from pipeline.experiment.experiment import Experiment, load_experiments
from pipeline.experiment.file import parse_yaml
from pipeline.experiment.keys import validated
from pipeline.experiment.own_code import named_parts

WORLD_SEED_OF_SEED_0 = 1000
"""Seed s trains and is tested in world 1000 + s, so that every seed is another world, and none is the default
one."""


class Method(Settings):
    """One method: an experiment file, and settings (dotted keys) laid over it."""

    config: str
    settings: dict[str, Any] = {}
    learning_rate: float | None = Field(
        None, gt=0, description="fixed rate; None: the tuned one, else the file's"
    )


class Grid(Settings):
    """Every combination of its methods, difficulties and seeds."""

    methods: list[str] = Field(min_length=1)
    difficulties: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)


class Tuning(Settings):
    """The search for a learning rate, the same for every method on every difficulty: each rate on each seed.

    The rate with the best mean held-out EM wins.
    """

    seeds: list[int] = Field(min_length=1)
    budget_tokens: int = Field(gt=0)
    learning_rates: list[float] = Field(min_length=1)


class Plan(Settings):
    """A study. `budget_tokens` counts every sampled token, those of replaced groups too."""

    budget_tokens: int = Field(gt=0)
    evaluate_at_tokens: list[int] = Field(min_length=1)
    """Sampled tokens at which held-out questions are answered, before the budget is spent; the start and the
    end always are."""
    baseline: str
    """The method that the others are tested against."""
    candidate: str
    """The method that the study recommends, if its figures allow it."""
    settings: dict[str, Any] = {}
    """Settings of every cell."""
    methods: dict[str, Method]
    difficulties: dict[str, dict[str, Any]]
    grids: list[Grid]
    tuning: Tuning | None = None

    @field_validator("evaluate_at_tokens")
    @classmethod
    def _ascend(cls, tokens: list[int]) -> list[int]:
        if tokens != sorted(set(tokens)) or tokens[0] < 1:
            raise ValueError(f"evaluate_at_tokens must ascend from 1 or more, got {tokens}")
        return tokens

    @model_validator(mode="after")
    def _names_are_known(self) -> Plan:
        named = {"methods": self.methods, "difficulties": self.difficulties}
        for grid in self.grids:
            for kind, known in named.items():
                for name in getattr(grid, kind):
                    _check_known(kind, name, known)
        for name in (self.baseline, self.candidate):
            _check_known("methods", name, self.methods)
        reported = {seed for grid in self.grids for seed in grid.seeds}
        if self.tuning and (both := sorted(reported & set(self.tuning.seeds))):
            raise ValueError(f"tuning.seeds: {both[0]} is also a reported seed: tune on another one")
        return self

    def cells(self) -> list[Cell]:
        """Lists the reported cells, none twice.

        They are sorted by seed, so that a study that is stopped has compared every method on some seeds.
        """
        wanted = {
            (seed, difficulty, method): None
            for grid in self.grids
            for difficulty in grid.difficulties
            for seed in grid.seeds
            for method in grid.methods
        }
        return [
            Cell(method, difficulty, seed, self.budget_tokens) for seed, difficulty, method in sorted(wanted)
        ]

    def tuning_cells(self) -> Iterator[Cell]:
        """Yields a cell for each rate and tuning seed of each method on each difficulty where it is reported.

        A method of a fixed rate has none.
        """
        if self.tuning is None:
            return
        for difficulty, name in sorted(
            {(d, m) for grid in self.grids for d in grid.difficulties for m in grid.methods}
        ):
            if self.methods[name].learning_rate is None:
                for rate, seed in itertools.product(self.tuning.learning_rates, self.tuning.seeds):
                    yield Cell(name, difficulty, seed, self.tuning.budget_tokens, rate, is_tuning=True)


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run of the study. `learning_rate` None: what the method's file says."""

    method: str
    difficulty: str
    seed: int
    budget_tokens: int
    learning_rate: float | None = None
    is_tuning: bool = False

    @property
    def name(self) -> str:
        """Path of the cell's table in the study's folder, without its ending."""
        if self.is_tuning:
            return f"tuning/{self.difficulty}/{self.method}/lr-{self.learning_rate:g}-seed-{self.seed}"
        return f"cells/{self.difficulty}/{self.method}/seed-{self.seed}"

    def experiment(self, plan: Plan) -> Experiment:
        """Makes the experiment that the cell runs.

        Raises:
            InputError: the method's file or settings are wrong.
        """
        method = plan.methods[self.method]
        settings = {
            "evaluation_interval": None,  # the study evaluates by tokens, not by iterations
            **plan.settings,
            **plan.difficulties[self.difficulty],
            **method.settings,
            "seed": self.seed,
            "env_config.world.seed": WORLD_SEED_OF_SEED_0 + self.seed,
        }
        rate = self.learning_rate or method.learning_rate
        if rate is not None:
            settings["lr"] = rate
        (experiment,) = load_experiments(
            method.config, [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        )
        return experiment

    def fingerprint(self, plan: Plan) -> str:
        """Hashes the preset's changes, the settings given, budget, times of evaluation and code of one's own.

        Defaults are left out: a new setting of a later version does not make a finished cell stale.

        Returns:
            12 hexadecimal digits.
        """
        config = self.experiment(plan).config
        preset = str(config.get("preset", "igpo"))
        changes, code = find_preset(preset).changes, {}
        for what, path in named_parts(config.get("env_config") or {}, preset):
            if what == "estimator":
                changes["code_hash"] = code_hash(path)
            else:
                import_function(path, what)
                code[path] = code_hash(path)
        asked = (changes, config, self.budget_tokens, plan.evaluate_at_tokens, *([code] if code else []))
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def load_plan(path: str | Path, *, quick: bool = False, baseline: str | None = None) -> Plan:
    """Reads a plan from a YAML file; `quick` lays the file's `quick` section over the rest.

    `baseline` takes the place of the plan's.

    Raises:
        InputError: it cannot be read, or something in it is wrong.
    """
    path = Path(path)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: the study cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: a study holds `methods`, `difficulties`, `grids`, ..., found {type(content).__name__}."
        )
    smaller = content.pop("quick", None)
    if quick:
        if smaller is None:
            raise InputError(f"{path}: it has no `quick` section, which --quick lays over the rest.")
        content |= smaller
    if baseline is not None:
        content["baseline"] = baseline
    return validated(Plan, content, "", str(path))


def _check_known(kind: str, name: str, known: dict) -> None:
    if name not in known:
        raise ValueError(f"there is no {name!r} among its {kind}: {', '.join(known)}")
