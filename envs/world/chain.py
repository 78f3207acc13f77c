"""`Chain`, the meaning of a question of the generated world."""

from __future__ import annotations

from dataclasses import dataclass

from envs.world.words import ALL_RELATIONS, ATTRIBUTES


@dataclass(frozen=True, slots=True)
class Chain:
    """A question's meaning: start at `entity`, follow `relations` in order, read `attribute`.

    All fields are indices. ``color of mother of mira ?`` is Chain(mira, (mother,), color), a question of 2
    hops.
    """

    entity: int
    relations: tuple[int, ...]
    attribute: int

    @property
    def hops(self) -> int:
        """Number of documents that the question needs."""
        return len(self.relations) + 1

    @property
    def keys(self) -> list[str]:
        """The word that each hop asks of its entity: the relations in order, then the attribute."""
        return [*(ALL_RELATIONS[r] for r in self.relations), ATTRIBUTES[self.attribute]]
