"""The generated multi-hop world: a seeded universe whose facts exist nowhere but in its documents.

Entities have relations to other entities and attributes with values; each entity has one document that states
its facts, such as ``mira mother toma . mira color red .``. A question of k hops needs k documents: ``color of
mother of mira ?`` is answered by mira's document (her mother is toma), then toma's. The entity's name stands
in every fact of its own document and at most a few times elsewhere, so that BM25 finds the document by name.
Same settings, same bytes on
every machine: only integer draws from PCG64 are used. What makes a world harder or more like natural text is
off by default and
has its own modules: `world_evidence`, `world_text`, `world_questions`; each draws from a stream of its own,
so that it changes nothing else.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from envs.data.corpus import Document
from envs.data.question import Question
from envs.errors import InputError
from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.evidence import draw_places, relate_by_place, resemble_place
from envs.world.questions import vary
from envs.world.text import ALIAS_NAMES, add_noise, distractors, share_names, value_names
from envs.world.words import ALL_RELATIONS, ATTRIBUTES, NAMES, VALUES, names

Split = Literal["train", "heldout"]


class World:
    """Facts, documents and questions.

    Array names: N entities, R relations, A attributes. `relations_NR` holds entity indices (never the entity
    itself), `values_NA` indices into `VALUES[attribute]`. `names` are what entities are called in questions
    and by others, `titles` what their own documents call them.
    """

    def __init__(self, settings: WorldSettings):
        _check(settings)
        self.settings = settings
        self.relations = ALL_RELATIONS[: settings.relations]
        rng = np.random.Generator(np.random.PCG64(settings.seed))
        count = settings.entities
        pool = names()[: max(len(NAMES), count)]
        self.titles, self.names = share_names(
            [pool[i] for i in rng.permutation(len(pool))[:count]], settings.collisions
        )
        # Drawing from N - 1 and stepping over the entity's own index leaves the draw uniform over the others.
        others_NR = rng.integers(0, count - 1, size=(count, settings.relations))
        self.relations_NR = others_NR + (others_NR >= np.arange(count)[:, None])
        self.values_NA = np.stack([rng.integers(0, len(VALUES[a]), size=count) for a in ATTRIBUTES], axis=1)
        self._fact_order_NF = np.stack(
            [rng.permutation(settings.relations + len(ATTRIBUTES)) for _ in range(count)]
        )
        self._question_seed = int(rng.integers(0, 2**31))
        if settings.graded_evidence:
            evidence = self._stream(1)
            places_N = draw_places(count, evidence)
            self.relations_NR = relate_by_place(
                self.relations_NR, places_N, settings.graded_evidence, evidence
            )
            self.values_NA = resemble_place(self.values_NA, places_N, settings.graded_evidence, evidence)
        self._alias_NA = self._stream(2).integers(0, settings.aliases + 1, size=self.values_NA.shape)

    def _stream(self, number: int) -> np.random.Generator:
        """A random stream of its own for one of the things that are off by default."""
        return np.random.Generator(np.random.PCG64([self.settings.seed, number]))

    def value(self, entity: int, key: str) -> str:
        """What `entity`'s document says of `key`, a relation or an attribute."""
        if key in self.relations:
            return self.names[self.relations_NR[entity, self.relations.index(key)]]
        return self.value_names(entity, key)[self._alias_NA[entity, ATTRIBUTES.index(key)]]

    def value_names(self, entity: int, attribute: str) -> list[str]:
        """All that the entity's value may be called; without aliases one word."""
        return value_names(
            attribute, int(self.values_NA[entity, ATTRIBUTES.index(attribute)]), self.settings.aliases
        )

    def document_id(self, entity: int) -> str:
        return f"world-{entity:04d}"

    def facts(self, entity: int) -> list[str]:
        """The sentences of the entity's document, in its order; where two share a name, first and last say
        which one it is.
        """
        title, keys = self.titles[entity], [*self.relations, *ATTRIBUTES]
        facts = [f"{title} {keys[k]} {self.value(entity, keys[k])} ." for k in self._fact_order_NF[entity]]
        if title == self.names[entity]:
            return facts
        return [f"{title} is {self.names[entity]} .", *facts, f"this was about {self.names[entity]} ."]

    @cached_property
    def documents(self) -> list[Document]:
        """One document per entity, in entity order, then the distractors."""
        noise, settings = self._stream(3), self.settings
        documents = []
        for entity in range(settings.entities):
            text = " ".join(add_noise(self.facts(entity), self, entity, settings.noise, noise))
            documents.append(Document(id=self.document_id(entity), title=self.titles[entity], text=text))
        return documents + distractors(self, settings.distractors, self._stream(4))

    def path(self, chain: Chain) -> list[int]:
        """The entities whose documents the chain needs, in hop order."""
        path = [chain.entity]
        for relation in chain.relations:
            path.append(int(self.relations_NR[path[-1], relation]))
        return path

    def draw_chain(self, hops: int, rng: np.random.Generator, entity: int | None = None) -> Chain:
        """A random chain whose entities are all different, from `entity` where it is given."""
        while True:
            relations = tuple(int(r) for r in rng.permutation(len(self.relations))[: hops - 1])
            start = int(rng.integers(len(self.names))) if entity is None else entity
            chain = Chain(start, relations, int(rng.integers(len(ATTRIBUTES))))
            if len(set(self.path(chain))) == hops:
                return chain

    def question(self, chain: Chain, id: str) -> Question:
        path, keys = self.path(chain), chain.keys
        return Question(
            id=id,
            text=" of ".join([*reversed(keys), self.names[chain.entity]]) + " ?",
            golds=self.value_names(path[-1], keys[-1]),
            data_source="world",
            hops=chain.hops,
            gold_document_ids=[self.document_id(entity) for entity in path],
            metadata={"kind": "chain", "entity": self.names[chain.entity], "keys": keys},
        )

    def questions(self, split: Split) -> list[Question]:
        """The questions of one split, in a random order of hops. No text is in both splits, and none twice in
        one.

        Raises InputError where the world is too small for the number of different questions asked for.
        """
        return self._questions[split]

    def chains(self, split: Split) -> list[Chain]:
        """What the questions of the split are made from, in the same order."""
        return self._chains[split]

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        rng, seen = self._stream(5), set()
        return {
            split: [vary(self, chain, f"{split}-{k:06d}", seen, rng) for k, chain in enumerate(chains)]
            for split, chains in self._chains.items()
        }

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
                        raise InputError(
                            f"a world of {self.settings.entities} entities has too few questions of {hops} "
                            "hops for "
                            f"{sum(sizes.values())} questions in all: raise world.entities or ask for fewer "
                            "questions"
                        )
                    chain = self.draw_chain(hops, rng)
                    if chain not in seen:
                        seen.add(chain)
                        drawn.append(chain)
            chains[split] = [drawn[k] for k in rng.permutation(len(drawn))]
        return chains


def _check(settings: WorldSettings) -> None:
    """Raises InputError where the settings ask for more than the vocabulary holds, or contradict
    one another.
    """
    taken = max(len(NAMES), settings.entities) + settings.distractors
    room = len(names()) - ALIAS_NAMES - 2 * settings.collisions
    if taken > room:
        raise InputError(
            f"world.entities {settings.entities} and world.distractors {settings.distractors} need {taken} "
            "names, but there are "
            f"{room}: lower one of them"
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


def split_by_share(total: int, shares: dict[int, float]) -> dict[int, int]:
    """`total` split into whole numbers in proportion to `shares` (largest remainder), keys in ascending
    order.
    """
    weight = sum(shares.values())
    exact = {key: total * shares[key] / weight for key in sorted(shares)}
    counts = {key: int(x) for key, x in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (counts[key] - exact[key], key))
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def build_world(settings: WorldSettings) -> World:
    """The world of these settings.

    Raises InputError where the settings ask for more than the vocabulary holds.
    """
    return World(settings)
