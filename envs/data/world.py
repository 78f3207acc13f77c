"""The generated multi-hop world: a seeded universe whose facts exist nowhere but in its documents.

Entities have relations to other entities and attributes with values; each entity has one document that states its
facts, such as ``mira mother toma . mira color red .``. A question of k hops needs k documents: ``color of mother of
mira ?`` is answered by mira's document (her mother is toma), then toma's. The entity's name stands in every fact of its
own document and at most a few times elsewhere, so that BM25 finds the document by name. Same settings, same bytes on
every machine: only integer draws from PCG64 are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from envs.data.corpus import Document
from envs.data.world_words import ATTRIBUTES, NAMES, RELATIONS, VALUES
from envs.search.config import WorldSettings
from envs.search.trajectory import Question

MAX_HOPS = len(RELATIONS) + 1
"""A question uses each relation at most once and ends in an attribute."""

Split = Literal["train", "heldout"]


@dataclass(frozen=True, slots=True)
class Chain:
    """A question's meaning: start at `entity`, follow `relations` in order, read `attribute`. All are indices."""

    entity: int
    relations: tuple[int, ...]
    attribute: int

    @property
    def hops(self) -> int:
        return len(self.relations) + 1

    @property
    def keys(self) -> list[str]:
        """What each hop asks of its entity: the relations in order, then the attribute."""
        return [*(RELATIONS[r] for r in self.relations), ATTRIBUTES[self.attribute]]


class World:
    """Facts, documents and questions.

    Array names: N entities, R relations, A attributes. `relations_NR` holds entity indices (never the entity itself),
    `values_NA` indices into `VALUES[attribute]`.
    """

    def __init__(self, settings: WorldSettings):
        if settings.entities > len(NAMES):
            raise ValueError(f"world.entities is {settings.entities}, but there are {len(NAMES)} names: lower it")
        bad_hops = [hops for hops in settings.hops if not 1 <= hops <= MAX_HOPS]
        if bad_hops or not settings.hops or min(settings.hops.values()) < 0 or sum(settings.hops.values()) <= 0:
            raise ValueError(f"world.hops is {settings.hops}: give a positive share to hops between 1 and {MAX_HOPS}")
        self.settings = settings
        rng = np.random.Generator(np.random.PCG64(settings.seed))
        count = settings.entities
        self.names = [NAMES[i] for i in rng.permutation(len(NAMES))[:count]]
        # Drawing from N - 1 and stepping over the entity's own index leaves the draw uniform over the others.
        others_NR = rng.integers(0, count - 1, size=(count, len(RELATIONS)))
        self.relations_NR = others_NR + (others_NR >= np.arange(count)[:, None])
        self.values_NA = np.stack([rng.integers(0, len(VALUES[a]), size=count) for a in ATTRIBUTES], axis=1)
        self._fact_order_NF = np.stack([rng.permutation(len(RELATIONS) + len(ATTRIBUTES)) for _ in range(count)])
        self._question_seed = int(rng.integers(0, 2**31))

    def value(self, entity: int, key: str) -> str:
        """What `entity`'s document says of `key`, a relation or an attribute."""
        if key in RELATIONS:
            return self.names[self.relations_NR[entity, RELATIONS.index(key)]]
        column = ATTRIBUTES.index(key)
        return VALUES[key][self.values_NA[entity, column]]

    def document(self, entity: int) -> Document:
        name, keys = self.names[entity], [*RELATIONS, *ATTRIBUTES]
        facts = [f"{name} {keys[k]} {self.value(entity, keys[k])} ." for k in self._fact_order_NF[entity]]
        return Document(id=f"world-{entity:04d}", title=name, text=" ".join(facts))

    @cached_property
    def documents(self) -> list[Document]:
        """One document per entity, in entity order."""
        return [self.document(entity) for entity in range(self.settings.entities)]

    def path(self, chain: Chain) -> list[int]:
        """The entities whose documents the chain needs, in hop order."""
        path = [chain.entity]
        for relation in chain.relations:
            path.append(int(self.relations_NR[path[-1], relation]))
        return path

    def draw_chain(self, hops: int, rng: np.random.Generator) -> Chain:
        """A random chain whose entities are all different."""
        while True:
            relations = tuple(int(r) for r in rng.permutation(len(RELATIONS))[: hops - 1])
            chain = Chain(int(rng.integers(len(self.names))), relations, int(rng.integers(len(ATTRIBUTES))))
            if len(set(self.path(chain))) == hops:
                return chain

    def question(self, chain: Chain, id: str) -> Question:
        path, keys = self.path(chain), chain.keys
        return Question(
            id=id,
            text=" of ".join([*reversed(keys), self.names[chain.entity]]) + " ?",
            golds=[self.value(path[-1], keys[-1])],
            data_source="world",
            hops=chain.hops,
            gold_document_ids=[f"world-{entity:04d}" for entity in path],
            metadata={"entity": self.names[chain.entity], "keys": keys},
        )

    def questions(self, split: Split) -> list[Question]:
        """The questions of one split, in a random order of hops. No text is in both splits, and none twice in one.

        Raises ValueError where the world is too small for the number of different questions asked for.
        """
        chains = self._chains[split]
        return [self.question(chain, f"{split}-{k:06d}") for k, chain in enumerate(chains)]

    @cached_property
    def _chains(self) -> dict[str, list[Chain]]:
        rng = np.random.Generator(np.random.PCG64(self._question_seed))
        sizes = {"heldout": self.settings.heldout_questions, "train": self.settings.train_questions}
        seen: set[Chain] = set()
        chains: dict[str, list[Chain]] = {}
        for split, size in sizes.items():
            drawn: list[Chain] = []
            for hops, count in split_by_share(size, self.settings.hops).items():
                tries = 0
                target = len(drawn) + count
                while len(drawn) < target:
                    tries += 1
                    if tries > 200 * count + 10_000:
                        raise ValueError(
                            f"a world of {self.settings.entities} entities has too few questions of {hops} hops for "
                            f"{sum(sizes.values())} questions in all: raise world.entities or ask for fewer questions"
                        )
                    chain = self.draw_chain(hops, rng)
                    if chain not in seen:
                        seen.add(chain)
                        drawn.append(chain)
            chains[split] = [drawn[k] for k in rng.permutation(len(drawn))]
        return chains


def split_by_share(total: int, shares: dict[int, float]) -> dict[int, int]:
    """`total` split into whole numbers in proportion to `shares` (largest remainder), keys in ascending order."""
    weight = sum(shares.values())
    exact = {key: total * shares[key] / weight for key in sorted(shares)}
    counts = {key: int(x) for key, x in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (counts[key] - exact[key], key))
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def build_world(settings: WorldSettings) -> World:
    """The world of these settings. Raises ValueError where the settings ask for more than the vocabulary holds."""
    return World(settings)
