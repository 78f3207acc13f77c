"""Draws training prompts in a deterministic shuffle per epoch; its state is five plain values.

BLAKE2 digests of (seed, epoch, index) give the order of an epoch. That order is fixed by definition, so a run
resumed under another version of NumPy or Python still skips and repeats nothing. The source of a draw follows
from the number of the draw and the weights alone, so a mixture needs no more state than a single file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envs.errors import InputError


@dataclass(frozen=True, slots=True)
class Share:
    """One source: the next `size` questions of the list, which get `weight` of all draws.

    Weights need not add up to 1.
    """

    size: int
    weight: float


class PromptSampler:
    """Samples indices of questions without replacement, source by source and epoch by epoch.

    Two sources of weights 3 and 1 take turns A A B A, A A B A, ...; each goes through its questions in an
    order of its own and starts a new epoch when all of them have been drawn.

    Args:
        num_questions: number of questions N, at least 1.
        seed: any integer; it decides the order of every epoch.
        fingerprint: identity of the questions (`questions.fingerprint`); the state of another identity is
            refused.
        shares: the sources that make up the list, in order; by default a single one.
        hops_Q: number of hops per question, for a curriculum; None counts as the fewest.
        curriculum_prompts: number of draws over which the allowed hops grow from the fewest to the most, in
            equal steps. The curriculum re-orders the first epoch of each source and ends with it. 0 is none.
        plays: whether the question of an index can be played. `next` passes over the others, which count as
            draws: so the order stays, and so does the state, when a limit is widened.

    Raises:
        InputError: there are no questions.
        ValueError: the shares do not make up the questions.
    """

    def __init__(
        self,
        num_questions: int,
        seed: int,
        fingerprint: str = "",
        *,
        shares: Sequence[Share] = (),
        hops_Q: Sequence[int | None] = (),
        curriculum_prompts: int = 0,
        plays: Callable[[int], bool] = lambda index: True,
    ):
        if num_questions < 1:
            raise InputError(
                "there are no questions to draw from: the question file or the split of it is empty"
            )
        self.num_questions = num_questions
        self.seed = seed
        self.fingerprint = fingerprint
        self._shares = tuple(shares) or (Share(num_questions, 1.0),)
        if (
            sum(share.size for share in self._shares) != num_questions
            or min(share.size for share in self._shares) < 1
        ):
            raise ValueError(f"shares {self._shares} do not make up {num_questions} questions")
        self._hops_Q = hops_Q
        self._curriculum_prompts = curriculum_prompts
        self._plays = plays
        self._start()

    def _start(self) -> None:
        self._drawn_X = [0] * len(self._shares)
        """Number of draws per source so far."""
        self._orders: dict[int, tuple[int, list[int]]] = {}
        """Source to (epoch, order) of its current epoch."""

    @property
    def _drawn(self) -> int:
        return sum(self._drawn_X)

    @property
    def epoch(self) -> int:
        """Completed passes over the questions, not counting the newest draw."""
        return max(0, self._drawn - 1) // self.num_questions

    @property
    def position(self) -> int:
        """Number of draws in this epoch."""
        return self._drawn - self.epoch * self.num_questions

    def next(self, n: int) -> list[int]:
        """The next `n` indices whose questions can be played.

        A call that crosses the end of an epoch may return an index twice.

        Raises:
            ValueError: `n` is negative.
            InputError: no question can be played.
        """
        if n < 0:
            raise ValueError(f"can't draw {n} prompts")
        return [self._draw_playable() for _ in range(n)]

    def _draw_playable(self) -> int:
        passed_over: set[int] = set()
        while not self._plays(index := self._draw()):
            passed_over.add(index)
            if len(passed_over) == self.num_questions:
                raise InputError("no training question leaves room for a decision: raise max_context_tokens")
        return index

    def state(self) -> dict[str, int | str]:
        """The state for `restore`, in plain JSON values."""
        return {
            "num_questions": self.num_questions,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
        }

    def differs_from(self, state: dict) -> str:
        """Says what `state` draws from, where it draws other questions or in another order; else empty."""
        if (state["num_questions"], state["fingerprint"]) != (self.num_questions, self.fingerprint):
            return "other training questions"
        return "" if state["seed"] == self.seed else f"them in the order of seed {state['seed']}"

    def restore(self, state: dict) -> None:
        """Continues exactly where `state` was taken. Its seed replaces this one's, so the order stays.

        Raises:
            InputError: the state belongs to other questions or is damaged.
        """
        if state["num_questions"] != self.num_questions:
            raise InputError(
                f"the checkpoint was made with {state['num_questions']} training questions, now there are "
                f"{self.num_questions}: use the same questions and split, or start a new run"
            )
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                "the checkpoint was made with other training questions (fingerprint "
                f"{state['fingerprint']!r}, now {self.fingerprint!r}): use the same question file, or start "
                "a new run"
            )
        if not 0 <= state["position"] <= self.num_questions or state["epoch"] < 0:
            raise InputError(f"the checkpoint's prompt sampler is damaged: {state}")
        self.seed = state["seed"]
        self._start()
        for _ in range(state["epoch"] * self.num_questions + state["position"]):
            self._drawn_X[self._next_source()] += 1

    def _draw(self) -> int:
        source = self._next_source()
        epoch, position = divmod(self._drawn_X[source], self._shares[source].size)
        self._drawn_X[source] += 1
        if source not in self._orders or self._orders[source][0] != epoch:
            self._orders[source] = (epoch, self._order(source, epoch))
        return self._orders[source][1][position]

    def _next_source(self) -> int:
        """The source that is furthest behind its share of the draws; the first of equals."""
        if len(self._shares) == 1:
            return 0
        due = (self._drawn + 1) / sum(share.weight for share in self._shares)
        behind_X = [
            share.weight * due - drawn for share, drawn in zip(self._shares, self._drawn_X, strict=True)
        ]
        return max(range(len(behind_X)), key=lambda source: (behind_X[source], -source))

    def _order(self, source: int, epoch: int) -> list[int]:
        def key(index: int) -> bytes:
            return hashlib.blake2b(f"{self.seed}/{epoch}/{index}".encode(), digest_size=16).digest()

        first = sum(share.size for share in self._shares[:source])
        order = sorted(range(first, first + self._shares[source].size), key=key)
        if epoch or not self._curriculum_prompts:
            return order
        weight = self._shares[source].weight / sum(share.weight for share in self._shares)
        return by_growing_hops(
            order, [self._hops_Q[index] or 0 for index in order], self._curriculum_prompts * weight
        )


def by_growing_hops(order: list[int], hops: list[int], prompts: float) -> list[int]:
    """Re-orders `order` so that the allowed number of hops grows with the position.

    With L different numbers of hops, position p takes the first item in `order` whose hops are among the
    lowest 1 + p / prompts * L of them, or the next higher hops where those are used up.

    Of the order a b c d with hops 3 1 2 1 and 4 prompts (L = 3), position 0 allows 1 hop and takes b;
    position 1 allows 1 hop and takes d; position 2 allows 1 and 2 hops and takes c; position 3 takes a.

    Args:
        order: the items.
        hops: number of hops of each item.
        prompts: number of positions over which the allowed hops grow.
    """
    levels = sorted(set(hops))
    waiting = [[k for k in range(len(order)) if hops[k] == level][::-1] for level in levels]
    found: list[int] = []
    for position in range(len(order)):
        allowed = 1 + int(position / prompts * len(levels))
        ready = [queue for queue in waiting[:allowed] if queue] or [next(queue for queue in waiting if queue)]
        found.append(order[min(ready, key=lambda queue: queue[-1]).pop()])
    return found
