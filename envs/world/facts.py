"""The facts of a generated world: who is related to whom, and who has which attributes."""

from __future__ import annotations

import numpy as np

from envs.errors import InputError
from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.evidence import draw_places, relate_by_place, resemble_place
from envs.world.text import ALIAS_NAMES, share_names, value_names
from envs.world.words import ALL_RELATIONS, ATTRIBUTES, NAMES, VALUES, names


class Facts:
    """Entities with names, relations to one another, and attributes with values.

    Dimension letters: W entities, J relations, A attributes.

    Args:
        settings: the world's settings.
        rng: the stream for everything that every world has. An option that is off by default draws from a
            stream of its own, so switching it on changes nothing else.

    Attributes:
        relations: the kinds of relations, J words.
        names: what questions and other documents call each entity, W names.
        titles: what an entity's own document calls it, W names. It differs from `names` only where two
            entities share a first name.
        relations_WJ: index of the entity that each relation leads to, int64, never the entity itself.
        values_WA: index into `VALUES[attribute]`, int64.

    Raises:
        InputError: the settings need more names than there are, or contradict one another.
    """

    def __init__(self, settings: WorldSettings, rng: np.random.Generator):
        _check(settings)
        self.settings = settings
        self.relations = ALL_RELATIONS[: settings.relations]
        count = settings.entities
        pool = names()[: max(len(NAMES), count)]
        self.titles, self.names = share_names(
            [pool[i] for i in rng.permutation(len(pool))[:count]], settings.collisions
        )
        # Drawing from W - 1 and stepping over the entity's own index leaves the draw uniform over the others.
        others_WJ = rng.integers(0, count - 1, size=(count, settings.relations))
        self.relations_WJ = others_WJ + (others_WJ >= np.arange(count)[:, None])
        self.values_WA = np.stack([rng.integers(0, len(VALUES[a]), size=count) for a in ATTRIBUTES], axis=1)
        if settings.graded_evidence:
            evidence = self._stream(1)
            places_W = draw_places(count, evidence)
            self.relations_WJ = relate_by_place(
                self.relations_WJ, places_W, settings.graded_evidence, evidence
            )
            self.values_WA = resemble_place(self.values_WA, places_W, settings.graded_evidence, evidence)
        self._alias_WA = self._stream(2).integers(0, settings.aliases + 1, size=self.values_WA.shape)

    def _stream(self, number: int) -> np.random.Generator:
        """Returns a random stream of its own for one of the options that are off by default."""
        return np.random.Generator(np.random.PCG64([self.settings.seed, number]))

    def value(self, entity: int, key: str) -> str:
        """Returns the word that `entity`'s document gives for `key`, a relation or an attribute."""
        if key in self.relations:
            return self.names[self.relations_WJ[entity, self.relations.index(key)]]
        return self.value_names(entity, key)[self._alias_WA[entity, ATTRIBUTES.index(key)]]

    def value_names(self, entity: int, attribute: str) -> list[str]:
        """Returns all names of the entity's value; a single word without aliases."""
        return value_names(
            attribute, int(self.values_WA[entity, ATTRIBUTES.index(attribute)]), self.settings.aliases
        )

    def path(self, chain: Chain) -> list[int]:
        """Returns the entities whose documents the chain needs, in hop order."""
        path = [chain.entity]
        for relation in chain.relations:
            path.append(int(self.relations_WJ[path[-1], relation]))
        return path

    def draw_chain(self, hops: int, rng: np.random.Generator, entity: int | None = None) -> Chain:
        """Draws a chain whose entities are all different; it starts at `entity` where that is given."""
        while True:
            relations = tuple(int(r) for r in rng.permutation(len(self.relations))[: hops - 1])
            start = int(rng.integers(len(self.names))) if entity is None else entity
            chain = Chain(start, relations, int(rng.integers(len(ATTRIBUTES))))
            if len(set(self.path(chain))) == hops:
                return chain


def _check(settings: WorldSettings) -> None:
    """Raises InputError where the settings need more names than there are, or contradict one another."""
    taken = max(len(NAMES), settings.entities) + settings.distractors
    room = len(names()) - ALIAS_NAMES - 2 * settings.collisions
    if taken > room:
        raise InputError(
            f"world.entities {settings.entities} and world.distractors {settings.distractors} need {taken} "
            f"names, but there are {room}: lower one of them"
        )
    max_hops = settings.relations + 1  # a question uses each relation at most once and ends in an attribute
    bad_hops = [hops for hops in settings.hops if not 1 <= hops <= max_hops]
    if bad_hops or not settings.hops or min(settings.hops.values()) < 0 or sum(settings.hops.values()) <= 0:
        raise InputError(
            f"world.hops is {settings.hops}: give a positive share to hops between 1 and {max_hops}"
        )
    if settings.yes_no + settings.comparison > 1:
        raise InputError(
            f"world.yes_no {settings.yes_no} and world.comparison {settings.comparison} add up to more than 1"
        )
