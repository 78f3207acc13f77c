"""`Parts` makes the kinds of sequences that a batch of the trainer consists of."""

from __future__ import annotations

import numpy as np

from algorithms.embedded_policy.plans import PlanSequences
from algorithms.embedded_policy.sequences import Sequence, SequenceMaker
from envs.world.world import World


class Parts:
    """Makes sequences of each kind in one world.

    Args:
        maker: makes single sequences.
        world: the world.
        rng: decides everything that is random.
        hops: shares of questions by hops.
    """

    def __init__(self, maker: SequenceMaker, world: World, rng: np.random.Generator, hops: dict[int, float]):
        self._maker = maker
        self._world = world
        self._rng = rng
        self._hops = hops

    def demonstrations(self, count: int) -> list[Sequence]:
        """Returns whole episodes of a searcher, of a searcher with a reader's notes, and of a reader."""
        return self._draw({"searcher": 0.6, "searcher_with_notes": 0.2, "reader": 0.2}, count)

    def searches(self, count: int) -> list[Sequence]:
        """Returns whole episodes of a searcher alone."""
        return self._draw({"searcher": 1.0}, count)

    def leads(self, count: int) -> list[Sequence]:
        """Searches of which only the later queries are learned, for chains of 2, 3, 4, 2, ... hops."""
        return [self._maker.lead(self._world.draw_chain(2 + k % 3, self._rng)) for k in range(count)]

    def leads_through_notes(self, count: int) -> list[Sequence]:
        """Returns the same, with a reader's notes in place of documents."""
        return [
            self._maker.lead_through_notes(self._world.draw_chain(2 + k % 3, self._rng)) for k in range(count)
        ]

    def beliefs(self, count: int) -> list[Sequence]:
        """Gold answers after random prefixes of episodes, with and without a reader."""
        return self._draw({"belief": 0.75, "belief_through_reader": 0.25}, count)

    def own_beliefs(self, count: int) -> list[Sequence]:
        """Returns the same for a searcher alone."""
        return self._draw({"belief": 1.0}, count)

    def early_beliefs(self, count: int) -> list[Sequence]:
        """Gold answers after one or two searches that did not find them; short, so a batch holds many."""
        chains = [
            self._world.draw_chain(int(hops), self._rng) for hops in self._rng.integers(2, 5, size=count)
        ]
        return [
            self._maker.early_belief(chain, int(self._rng.integers(1, min(chain.hops, 3))))
            for chain in chains
        ]

    def forecasts(self, count: int) -> list[Sequence]:
        """Answers about people to whom a single document leads."""
        return [self._maker.forecasts(16) for _ in range(count)]

    def lookups(self, count: int) -> list[Sequence]:
        """Facts of two documents."""
        return [self._maker.lookups(documents=2, lookups=12) for _ in range(count)]

    def short_lookups(self, count: int) -> list[Sequence]:
        """Facts of one document."""
        return [self._maker.lookups(documents=1, lookups=8) for _ in range(count)]

    def _draw(self, kinds: dict[str, float], count: int) -> list[Sequence]:
        hops = self._rng.choice(list(self._hops), p=list(self._hops.values()), size=count)
        chosen = self._rng.choice(list(kinds), p=list(kinds.values()), size=count)
        draws = zip(chosen, hops, strict=True)
        return [
            getattr(self._maker, kind)(self._world.draw_chain(int(hop), self._rng)) for kind, hop in draws
        ]


class PlanParts(Parts):
    """The same for questions that are told out of order, and the parts of a planner and its searcher."""

    _maker: PlanSequences

    def told_lookups(self, count: int) -> list[Sequence]:
        """Returns questions with many of their hops."""
        chains = [self._world.draw_chain(2 + k % 2, self._rng) for k in range(count)]
        return [self._maker.told_lookups(chain, lookups=12) for chain in chains]

    def plans(self, count: int) -> list[Sequence]:
        """Returns a planner's messages."""
        return self._draw({"planner": 1.0}, count)

    def leads(self, count: int) -> list[Sequence]:
        """Returns searches of which only the later queries are learned."""
        return self._draw({"lead": 1.0}, count)

    def planned_leads(self, count: int) -> list[Sequence]:
        """Returns the same of a searcher who was told the plan."""
        return self._draw({"lead_with_plan": 1.0}, count)

    def planned_searches(self, count: int) -> list[Sequence]:
        """Returns whole episodes of a searcher who was told the plan."""
        return self._draw({"searcher_with_plan": 1.0}, count)

    def first_queries(self, count: int) -> list[Sequence]:
        """Returns the first searches of one agent, which finds the order itself."""
        return self._draw({"first_query": 1.0}, count)

    def planned_beliefs(self, count: int) -> list[Sequence]:
        """Returns gold answers after a plan and random prefixes of searches."""
        return self._draw({"belief_with_plan": 1.0}, count)
