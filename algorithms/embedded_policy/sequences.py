"""Training sequences of the embedded policy: token ids, with a mask of the tokens that are learned.

Each batch comes from a new world, so no fact can be memorised, and the policy can only learn to look facts
up. The protocol's own methods make all tokens, so training sequences equal those of rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.search.protocols.tiny import ANSWER, END, MESSAGE, SEARCH, TinyProtocol
from envs.world.chain import Chain
from envs.world.expert import Expert, Habits, Step
from envs.world.words import ATTRIBUTES, RELATIONS
from envs.world.world import World

TITLE_SHARE = 0.25
"""Share of documents shown with their title line, so that the policy knows both forms of a document."""
ERROR_SHARE = 0.02
"""Share of decisions after an error observation, which the policy should ignore."""


@dataclass
class Sequence:
    """Token ids and, for each, whether its prediction is learned. Built from left to right."""

    ids: list[int]
    learned: list[bool]

    def add(self, ids: list[int], learned: bool | list[bool] = False) -> None:
        """Appends `ids`; `learned` holds for all of them, or is a list with one entry per id."""
        self.ids += ids
        self.learned += learned if isinstance(learned, list) else [learned] * len(ids)


class SequenceMaker:
    """Makes sequences in one world.

    Args:
        protocol: makes the tokens.
        world: the world.
        rng: decides everything that is random.
        habits: the expert's bad habits in demonstrations.
    """

    def __init__(self, protocol: TinyProtocol, world: World, rng: np.random.Generator, habits: Habits):
        self.protocol = protocol
        self.world = world
        self.rng = rng
        self.habits = habits
        vocabulary = protocol.tokenizer.get_vocab()
        self._token: dict[str, int] = {token: vocabulary[token] for token in (ANSWER, END, MESSAGE, SEARCH)}

    def lookups(self, documents: int, lookups: int) -> Sequence:
        """Some documents, then many of their facts. Only the facts' values are learned.

        This is dense practice of the skill that everything else needs. Without it, a model of this size
        learns the format of demonstrations but not to read.
        """
        sequence = self._start(Chain(0, (), 0), actions=["message"])
        entities = self.rng.permutation(len(self.world.names))[:documents]
        for entity in entities:
            sequence.add(self._document(int(entity)))
        facts = [(int(e), key) for e in entities for key in (*RELATIONS, *ATTRIBUTES)]
        for k in self.rng.permutation(len(facts))[:lookups]:
            name, key, value = self._words(
                f"{self.world.names[facts[k][0]]} {facts[k][1]} {self.world.value(*facts[k])}"
            )
            sequence.add(
                [self._token[MESSAGE], name, key, value, self._token[END]], [False, False, False, True, False]
            )
        return sequence

    def forecasts(self, forecasts: int) -> Sequence:
        """Returns one document, then questions about people to whom it leads. Only the answers are learned.

        This is dense practice of graded evidence (`envs.world.evidence`). A whole episode holds a single such
        answer, and hundreds of batches of episodes teach nothing.
        """
        sequence = self._start(Chain(0, (), 0), actions=["message"])
        entity = int(self.rng.integers(len(self.world.names)))
        sequence.add(self._document(entity))
        for hops in self.rng.choice([2, 3, 4], p=[0.5, 0.3, 0.2], size=forecasts):
            question = self.world.question(self.world.draw_chain(int(hops), self.rng, entity), id="")
            words = self._words(f"{question.text} {question.golds[0]}")
            sequence.add(
                [self._token[MESSAGE], *words, self._token[END]], [False] * len(words) + [True, False]
            )
        return sequence

    def searcher(self, chain: Chain) -> Sequence:
        """Returns an episode of a searcher. Every decision is learned."""
        sequence = self._start(chain, actions=["search", "answer"])
        for step in self._demonstrate(chain):
            self._maybe_error(sequence)
            sequence.add(self._decision(step), True)
            if step.entity is not None:
                sequence.add(self._document(step.entity))
        return sequence

    def searcher_with_notes(self, chain: Chain) -> Sequence:
        """Returns the searcher's side of an episode in which a reader condenses the documents."""
        sequence = self._start(chain, actions=["search", "answer"])
        for step in self._demonstrate(chain, through_reader=True):
            sequence.add(self._decision(step), True)
            if step.entity is not None:
                sequence.add(self._note(step.note))
        return sequence

    def reader(self, chain: Chain) -> Sequence:
        """Returns the reader's side. Every message is learned."""
        sequence = self._start(chain, actions=["message"])
        for step in self._demonstrate(chain, through_reader=True)[:-1]:
            sequence.add(self._document(step.entity))
            sequence.add(self._message(step.note), True)
        return sequence

    def lead(self, chain: Chain) -> Sequence:
        """Returns a search without bad habits, of which only the queries after the first are learned.

        These queries name the person to whom the last document led, and the fact to look for. In whole
        demonstrations most tokens are easy to predict, and these few words get too little weight: a policy of
        this size then learns to ask about anyone in the document.
        """
        return self._straight(chain, lambda step: self._document(step.entity))

    def lead_through_notes(self, chain: Chain) -> Sequence:
        """Returns the same with a reader's notes in place of documents."""
        return self._straight(chain, lambda step: self._note(step.note))

    def belief(self, chain: Chain) -> Sequence:
        """Returns an episode that ends with the gold answer after a random number of searches. Only the
        answer is learned.

        This calibrates the policy's belief in an answer on the documents that it has seen.
        """
        sequence = self._start(chain, actions=["search", "answer"])
        for step in self._prefix(chain):
            sequence.add(self._decision(step))
            sequence.add(self._document(step.entity))
        return self._gold(sequence, chain)

    def early_belief(self, chain: Chain, searches: int) -> Sequence:
        """Returns the same after the first `searches` searches of an expert who rarely strays."""
        sequence = self._start(chain, actions=["search", "answer"])
        for step in Expert(self.world, self.rng, Habits(stray=0.1)).demonstrate(chain)[:searches]:
            sequence.add(self._decision(step))
            sequence.add(self._document(step.entity))
        return self._gold(sequence, chain)

    def belief_through_reader(self, chain: Chain) -> Sequence:
        """Returns the same on the merged history of both roles, with or without documents and notes."""
        sequence = self._start(chain, actions=["search", "answer"])
        with_documents = self.rng.random() < 0.7
        with_notes = not with_documents or self.rng.random() < 0.6
        for step in self._prefix(chain, through_reader=True):
            sequence.add(self._decision(step))
            if with_documents:
                sequence.add(self._document(step.entity))
                if self.rng.random() < 0.8:
                    sequence.add(self._message(step.note))
            if with_notes:
                sequence.add(self._note(step.note))
        return self._gold(sequence, chain)

    def _straight(
        self, chain: Chain, observe: Callable[[Step], list[int]], told: str | None = None
    ) -> Sequence:
        sequence = self._start(chain, actions=["search", "answer"])
        if told is not None:
            sequence.add(self._note(told))
        for number, step in enumerate(Expert(self.world, self.rng, Habits()).demonstrate(chain)[:-1]):
            decision = self._decision(step)
            sequence.add(decision, [number > 0 and 0 < k < len(decision) - 1 for k in range(len(decision))])
            sequence.add(observe(step))
        return sequence

    def _demonstrate(self, chain: Chain, through_reader: bool = False) -> list[Step]:
        return Expert(self.world, self.rng, self.habits).demonstrate(chain, through_reader)

    def _prefix(self, chain: Chain, through_reader: bool = False) -> list[Step]:
        habits = Habits(give_up=0.0, repeat=0.1, stray=0.15, overshoot=0.2, misread=self.habits.misread)
        searches = Expert(self.world, self.rng, habits).demonstrate(chain, through_reader)[:-1]
        return (
            searches[: int(self.rng.integers(0, len(searches) + 1))] if self.rng.random() < 0.5 else searches
        )

    def _start(self, chain: Chain, actions: list[str]) -> Sequence:
        ids = self.protocol.prompt("", self._text(chain), actions)
        return Sequence(ids, [False] * len(ids))

    def _text(self, chain: Chain) -> str:
        return self.world.question(chain, id="").text

    def _gold(self, sequence: Sequence, chain: Chain) -> Sequence:
        suffix = self.protocol.scoring_suffix(self.world.question(chain, id="").golds[0])
        sequence.add(suffix.ids, [bool(gold) for gold in suffix.gold_mask_L])
        return sequence

    def _maybe_error(self, sequence: Sequence) -> None:
        if self.rng.random() < ERROR_SHARE:
            message = "not understood " * int(self.rng.integers(1, 8))
            sequence.add(self._observation(message, "error"))

    def _decision(self, step: Step) -> list[int]:
        return [
            self._token[SEARCH if step.kind == "search" else ANSWER],
            *self._words(step.text),
            self._token[END],
        ]

    def _message(self, text: str) -> list[int]:
        return [self._token[MESSAGE], *self._words(text), self._token[END]]

    def _document(self, entity: int | None) -> list[int]:
        assert entity is not None, "an answer shows no document"
        document = self.world.documents[entity]
        return self._observation(
            document.contents if self.rng.random() < TITLE_SHARE else document.text, "tool"
        )

    def _note(self, text: str) -> list[int]:
        return self._observation(text, "reader")

    def _observation(self, text: str, sender: str) -> list[int]:
        return self.protocol.observation(text, decision_ids=[], sender=sender, max_tokens=1000).ids

    def _words(self, text: str) -> list[int]:
        return list(self.protocol.tokenizer.convert_tokens_to_ids(text.split()))  # ty: ignore[invalid-argument-type]
