"""The generated multi-hop world: a seeded universe whose facts exist nowhere but in its documents.

Entities have relations to other entities and attributes with values. Each entity has one document that
states its facts, such as ``mira mother toma . mira color red .``. A question of k hops needs k documents:
``color of mother of mira ?`` is answered by mira's document (her mother is toma), then by toma's. An entity's
name occurs in every fact of its own document and at most a few times elsewhere, so BM25 finds the document by
the name.

The same settings give the same bytes on every machine, because only integer draws from PCG64 are used.
Options that make a world harder, or more like natural text, are off by default and have modules of their
own: `evidence`, `text`, `questions` and `unordered`. Each draws from a stream of its own, so it changes
nothing else.
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
from envs.world.facts import Facts
from envs.world.questions import chain_question, document_id, vary
from envs.world.text import add_noise, distractors
from envs.world.unordered import check_unordered, unordered_question
from envs.world.words import ATTRIBUTES

Split = Literal["train", "heldout"]


class World(Facts):
    """Facts, and the documents and questions made from them.

    Dimension letters: W entities, X facts of a document.
    """

    def __init__(self, settings: WorldSettings):
        check_unordered(settings)
        rng = np.random.Generator(np.random.PCG64(settings.seed))
        super().__init__(settings, rng)
        self._fact_order_WX = np.stack(
            [rng.permutation(settings.relations + len(ATTRIBUTES)) for _ in range(settings.entities)]
        )
        self._question_seed = int(rng.integers(0, 2**31))

    def facts(self, entity: int) -> list[str]:
        """Returns the sentences of the entity's document, in its order.

        Where two entities share a first name, the first and the last sentence give the full name.
        """
        title, keys = self.titles[entity], [*self.relations, *ATTRIBUTES]
        facts = [f"{title} {keys[k]} {self.value(entity, keys[k])} ." for k in self._fact_order_WX[entity]]
        if title == self.names[entity]:
            return facts
        return [f"{title} is {self.names[entity]} .", *facts, f"this was about {self.names[entity]} ."]

    @cached_property
    def documents(self) -> list[Document]:
        """One document per entity, in entity order, then the distractors."""
        noise, settings = self._stream(3), self.settings
        documents = []
        for entity, title in enumerate(self.titles):
            sentences = add_noise(self.facts(entity), title, self.names, settings.noise, noise)
            documents.append(Document(id=document_id(entity), title=title, text=" ".join(sentences)))
        return documents + distractors(self.names, self.relations, settings.distractors, self._stream(4))

    def question(self, chain: Chain, id: str) -> Question:
        """Returns the question that asks for the end of `chain`."""
        return chain_question(self, chain, id)

    def questions(self, split: Split) -> list[Question]:
        """Returns the questions of one split, in a random order of hops.

        All questions of both splits have different texts.

        Raises:
            InputError: the world is too small for so many different questions.
        """
        return self._questions[split]

    def chains(self, split: Split) -> list[Chain]:
        """Returns the chains that the questions of the split are made from, in the same order."""
        return self._chains[split]

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        rng, seen = self._stream(5), set()
        questions = {
            split: [vary(self, chain, f"{split}-{k:06d}", seen, rng) for k, chain in enumerate(chains)]
            for split, chains in self._chains.items()
        }
        return self._unorder(questions) if self.settings.unordered else questions

    def _unorder(self, questions: dict[str, list[Question]]) -> dict[str, list[Question]]:
        """Tells a share `unordered` of the chain questions out of order."""
        rng, share = self._stream(6), round(self.settings.unordered * 1_000_000)
        return {
            split: [
                unordered_question(self, chain, question.id, rng)
                if int(rng.integers(0, 1_000_000)) < share and question.metadata["kind"] == "chain"
                else question
                for chain, question in zip(self._chains[split], asked, strict=True)
            ]
            for split, asked in questions.items()
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
                            f"hops for {sum(sizes.values())} questions in all: raise "
                            "`env_config.world.entities`, or lower `env_config.world.train_questions` or "
                            "`env_config.world.heldout_questions`"
                        )
                    chain = self.draw_chain(hops, rng)
                    if chain not in seen:
                        seen.add(chain)
                        drawn.append(chain)
            chains[split] = [drawn[k] for k in rng.permutation(len(drawn))]
        return chains


def split_by_share(total: int, shares: dict[int, float]) -> dict[int, int]:
    """Splits `total` into whole numbers in proportion to `shares`, by the largest remainder.

    Of 7 questions, the shares {1: 0.25, 2: 0.5, 3: 0.25} are 1.75, 3.5 and 1.75: rounded down 1, 3 and 1. The
    two that are left go to the largest remainders, so the result is {1: 2, 2: 3, 3: 2}.

    Returns:
        {key: number}, in ascending order of the keys.
    """
    weight = sum(shares.values())
    exact = {key: total * shares[key] / weight for key in sorted(shares)}
    counts = {key: int(x) for key, x in exact.items()}
    by_remainder = sorted(exact, key=lambda key: (counts[key] - exact[key], key))
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def build_world(settings: WorldSettings) -> World:
    """Returns the world of these settings.

    Raises:
        InputError: the settings need more names than there are, or contradict one another.
    """
    return World(settings)
