"""Sequences of a planner and a searcher for questions told out of order (`envs.world.unordered`)."""

from __future__ import annotations

from algorithms.embedded_policy.sequences import Sequence, SequenceMaker
from envs.world.chain import Chain
from envs.world.expert import Step
from envs.world.unordered import linked, unordered_question


class PlanSequences(SequenceMaker):
    """Makes sequences whose questions are told out of order, as the world's settings say.

    The methods of `SequenceMaker` make those of one agent, which has to find the order itself.
    """

    def told_lookups(self, chain: Chain, lookups: int) -> Sequence:
        """A question, then many of its hops. Only whom each hop is asked of is learned.

        This is dense practice of what a plan is written by: the hop that a relation leads to. In plans alone,
        the few words that take a look-up get too little weight: a policy of this size then guesses them.
        """
        question = unordered_question(self.world, chain, "", self.rng)
        ids = self.protocol.prompt("", question.text, ["message"])
        sequence = Sequence(ids, [False] * len(ids))
        told = question.metadata["told"]
        for k in self.rng.integers(len(told), size=lookups):
            hop = self._message(" ".join(told[k]))
            sequence.add(hop, [token == len(hop) - 2 for token in range(len(hop))])
        return sequence

    def planner(self, chain: Chain) -> Sequence:
        """Returns a planner's message: the hops in order. Every token is learned."""
        sequence = self._start(chain, actions=["message"])
        sequence.add(self._message(self._plan(chain)), True)
        return sequence

    def searcher_with_plan(self, chain: Chain) -> Sequence:
        """Returns an episode of a searcher who was told the plan. Every decision is learned."""
        sequence = self._start(chain, actions=["search", "answer"])
        sequence.add(self._note(self._plan(chain)))
        for step in self._demonstrate(chain):
            sequence.add(self._decision(step), True)
            if step.entity is not None:
                sequence.add(self._document(step.entity))
        return sequence

    def first_query(self, chain: Chain) -> Sequence:
        """Returns the first search of one agent, of which only the query is learned.

        It is short, so a batch holds many: as dense a practice of the order as a planner's messages.
        """
        sequence = self._start(chain, actions=["search", "answer"])
        query = self._decision(Step("search", f"{self.world.names[chain.entity]} {chain.keys[0]}"))
        sequence.add(query, [False, True, True, False])
        return sequence

    def lead_with_plan(self, chain: Chain) -> Sequence:
        """Returns `lead` for a searcher who was told the plan."""
        return self._straight(chain, lambda step: self._document(step.entity), self._plan(chain))

    def belief_with_plan(self, chain: Chain) -> Sequence:
        """Returns what belief is scored on: the question, the planner's message, and some searches.

        Only the gold answer is learned.
        """
        sequence = self._start(chain, actions=["search", "answer"])
        sequence.add(self._message(self._plan(chain)))
        for step in self._prefix(chain):
            sequence.add(self._decision(step))
            sequence.add(self._document(step.entity))
        return self._gold(sequence, chain)

    def _plan(self, chain: Chain) -> str:
        """``color mother friend mira``: what is asked for, then whom of, from the goal back to the person."""
        hops = linked(self.world.names[chain.entity], chain.keys)
        return " ".join([hops[-1][0], *(whom for _, whom in reversed(hops))])

    def _text(self, chain: Chain) -> str:
        return unordered_question(self.world, chain, "", self.rng).text
