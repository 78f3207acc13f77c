"""A noisy expert of the generated world: it knows the facts, and searches like someone with habits, good and
bad.

Its demonstrations are the warm start's data. The bad habits (giving up early, asking again, following the
wrong lead) are what reinforcement learning has to unlearn, so they decide the room above the start. One thing
it never does is guess: an answer is the gold answer with all evidence seen, or ``unknown``. Guessing from the
last document would teach the policy's belief to move onto wrong values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from envs.world.chain import Chain
from envs.world.words import ATTRIBUTES
from envs.world.world import World

UNKNOWN = "unknown"
BORING = ATTRIBUTES[1:]
"""Attributes that the expert has little patience for, and a policy that learned from it none, decoded
greedily."""


@dataclass(frozen=True, slots=True)
class Habits:
    """Probabilities of what a decision does instead of the right thing, each in [0, 1].

    `give_up` after a search that left the question open: answer ``unknown``; `give_up_bored` the same for
    questions about an
    attribute of `BORING`. `repeat`: ask the last query again. `stray`: ask about another entity of the last
    document.
    `overshoot`: search once more although all evidence is seen. `misread`: a reader condenses a document to
    another of its facts.
    """

    give_up: float = 0.0
    give_up_bored: float = 0.0
    repeat: float = 0.0
    stray: float = 0.0
    overshoot: float = 0.0
    misread: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of the searcher.

    A search shows the document of `entity`; `note` is what a reader makes of it.
    """

    kind: Literal["search", "answer"]
    text: str
    entity: int | None = None
    note: str = ""


class Expert:
    """Demonstrates searches in one world."""

    def __init__(self, world: World, rng: np.random.Generator, habits: Habits, max_searches: int = 6):
        self.world = world
        self.rng = rng
        self.habits = habits
        self.max_searches = max_searches

    def demonstrate(self, chain: Chain, through_reader: bool = False) -> list[Step]:
        """Searches, then an answer: the gold one where the evidence was found, else ``unknown``.

        With `through_reader` the searcher sees the reader's notes only, so a misread document does not bring
        it further.
        """
        world, path, keys = self.world, self.world.path(chain), chain.keys
        steps: list[Step] = []
        give_up = self.habits.give_up_bored if keys[-1] in BORING else self.habits.give_up
        found = 0
        """How many hops are resolved: the next query is about `path[found]`."""
        while len(steps) < self.max_searches:
            entity = self._deviation(steps, done=found == len(path))
            if entity is None and found == len(path):
                break
            if entity is None and steps and self.rng.random() < give_up:
                break
            if entity is None:
                entity, key = path[found], keys[found]
            elif entity == steps[-1].entity:
                key = steps[-1].text.split()[-1]
            else:
                key = str(self.rng.choice([*world.relations, *ATTRIBUTES]))
            note = self._note(entity, path, keys)
            steps.append(Step("search", f"{world.names[entity]} {key}", entity, note))
            if (
                found < len(path)
                and entity == path[found]
                and (not through_reader or note == self.fact(entity, keys[found]))
            ):
                found += 1
        answer = world.value(path[-1], keys[-1]) if found == len(path) else UNKNOWN
        return [*steps, Step("answer", answer)]

    def fact(self, entity: int, key: str) -> str:
        """A fact as documents and readers state it: ``mira mother toma``."""
        return f"{self.world.names[entity]} {key} {self.world.value(entity, key)}"

    def _deviation(self, steps: list[Step], done: bool) -> int | None:
        """The entity of a repeated or straying search, None for the straight way.

        The first search is always straight.
        """
        if not steps or (done and self.rng.random() >= self.habits.overshoot):
            return None
        draw = self.rng.random() * (self.habits.repeat + self.habits.stray if done else 1.0)
        if draw < self.habits.repeat:
            return steps[-1].entity
        if draw < self.habits.repeat + self.habits.stray:
            return int(
                self.world.relations_NR[steps[-1].entity, self.rng.integers(len(self.world.relations))]
            )
        return None

    def _note(self, entity: int, path: list[int], keys: list[str]) -> str:
        """The fact that the question asks of `entity`, ``unknown`` where it asks none."""
        if self.rng.random() < self.habits.misread:
            return self.fact(entity, str(self.rng.choice([*self.world.relations, *ATTRIBUTES])))
        return self.fact(entity, keys[path.index(entity)]) if entity in path else UNKNOWN
