"""A noisy expert of the generated world: it knows the facts, but its searches follow bad habits at times.

Its demonstrations make the embedded policies. Reinforcement learning has to unlearn the bad habits
(giving up early, repeating a query, following the wrong lead), so they decide how much a policy can still
learn. The expert never guesses: it gives the gold answer after all evidence, or ``unknown``. Guessing from
the last document would teach the policy to believe in wrong values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from envs.world.chain import Chain
from envs.world.words import ATTRIBUTES
from envs.world.world import World

UNKNOWN = "unknown"
MAX_SEARCHES = 6
"""Limit on the searches for one question."""
BORING = ATTRIBUTES[1:]
"""Attributes on which the expert often gives up. A policy trained on it gives up every time when decoded
greedily."""


@dataclass(frozen=True, slots=True)
class Habits:
    """Probabilities that a decision follows a bad habit, each in [0, 1].

    Attributes:
        give_up: answers ``unknown`` after a search that left the question open.
        give_up_bored: the same, for questions about an attribute of `BORING`.
        repeat: repeats the last query.
        stray: asks about another entity of the last document.
        overshoot: searches once more after all evidence has been seen.
        misread: a reader notes another fact of the document.
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

    Attributes:
        kind: "search" or "answer".
        text: the query or the answer.
        entity: the entity whose document a search shows; None for an answer.
        note: a reader's message about that document.
    """

    kind: Literal["search", "answer"]
    text: str
    entity: int | None = None
    note: str = ""


class Expert:
    """Demonstrates searches in one world.

    Args:
        world: the world.
        rng: decides where habits apply.
        habits: the probabilities of bad habits.
    """

    def __init__(self, world: World, rng: np.random.Generator, habits: Habits):
        self.world = world
        self.rng = rng
        self.habits = habits

    def demonstrate(self, chain: Chain, through_reader: bool = False) -> list[Step]:
        """Demonstrates the searches for one question, then the answer.

        Args:
            chain: the question.
            through_reader: whether the searcher sees only a reader's notes, so that a misread document does
                not help.

        Returns:
            Searches, then one answer: the gold answer if all evidence was found, else ``unknown``.
        """
        world, path, keys = self.world, self.world.path(chain), chain.keys
        steps: list[Step] = []
        give_up = self.habits.give_up_bored if keys[-1] in BORING else self.habits.give_up
        found = 0
        """Number of resolved hops; the next query is about `path[found]`."""
        while len(steps) < MAX_SEARCHES:
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
        """Returns a fact in the form of documents and notes: ``mira mother toma``."""
        return f"{self.world.names[entity]} {key} {self.world.value(entity, key)}"

    def _deviation(self, steps: list[Step], done: bool) -> int | None:
        """Returns the entity of a repeated or straying search; None for the right one, as in the first
        search.
        """
        if not steps or (done and self.rng.random() >= self.habits.overshoot):
            return None
        draw = self.rng.random() * (self.habits.repeat + self.habits.stray if done else 1.0)
        if draw < self.habits.repeat:
            return steps[-1].entity
        if draw < self.habits.repeat + self.habits.stray:
            return int(
                self.world.relations_WJ[steps[-1].entity, self.rng.integers(len(self.world.relations))]
            )
        return None

    def _note(self, entity: int, path: list[int], keys: list[str]) -> str:
        """Returns the fact about `entity` that the question needs; ``unknown`` where it needs none."""
        if self.rng.random() < self.habits.misread:
            return self.fact(entity, str(self.rng.choice([*self.world.relations, *ATTRIBUTES])))
        return self.fact(entity, keys[path.index(entity)]) if entity in path else UNKNOWN
