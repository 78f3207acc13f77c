"""Which prompt comes next: a deterministic shuffle per epoch that a checkpoint can hold in five numbers.

The order of an epoch is that of BLAKE2 digests of (seed, epoch, index): fixed by definition, so that a run
resumed under another version of NumPy or Python still skips and repeats nothing. Which source a draw goes to
follows from the number of the draw and the weights alone, so a mixture needs no more state than one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from envs.errors import InputError


@dataclass(frozen=True, slots=True)
class Share:
    """The next `size` questions of the list are one source, which gets `weight` of all draws (weights need
    not add up to 1).
    """

    size: int
    weight: float


class PromptCursor:
    """Walks over `num_questions` indices in an order that `seed` and the epoch decide, each source's once per
    its epoch.

    Args:
        num_questions: how many there are, at least 1.
        seed: any integer.
        fingerprint: identity of the questions (`questions.fingerprint`); a state of another identity is
            refused.
        shares: the sources that make up the list, in order; default one.
        hops_N: number of hops per question, for a curriculum; None counts as the fewest.
        curriculum_prompts: over so many draws the hops that are allowed grow in equal steps from the fewest
            to the most. It re-orders each source's first epoch and ends with it. 0: no curriculum.
    """

    def __init__(
        self,
        num_questions: int,
        seed: int,
        fingerprint: str = "",
        *,
        shares: Sequence[Share] = (),
        hops_N: Sequence[int | None] = (),
        curriculum_prompts: int = 0,
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
        self._hops_N = hops_N
        self._curriculum_prompts = curriculum_prompts
        self._start()

    def _start(self) -> None:
        self._drawn_S = [0] * len(self._shares)
        """Draws per source so far."""
        self._orders: dict[int, tuple[int, list[int]]] = {}
        """Source to (epoch, order) of the epoch under way."""

    @property
    def _drawn(self) -> int:
        return sum(self._drawn_S)

    @property
    def epoch(self) -> int:
        """How often as many prompts as there are questions were drawn before the last one."""
        return max(0, self._drawn - 1) // self.num_questions

    @property
    def position(self) -> int:
        """How many were drawn in this epoch."""
        return self._drawn - self.epoch * self.num_questions

    def next(self, n: int) -> list[int]:
        """The next `n` indices.

        Goes on into the next epoch: a draw across the border may name an index twice.
        """
        if n < 0:
            raise ValueError(f"can't draw {n} prompts")
        return [self._draw() for _ in range(n)]

    def state(self) -> dict[str, int | str]:
        """Everything that `restore` needs, as plain JSON values."""
        return {
            "num_questions": self.num_questions,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
        }

    def restore(self, state: dict) -> None:
        """Go on exactly where `state` was taken. The saved seed holds, so that the epoch under way keeps its
        order.

        Raises:
            InputError: the state belongs to other questions.
        """
        if state["num_questions"] != self.num_questions:
            raise InputError(
                f"the checkpoint was made with {state['num_questions']} training questions, now there are "
                f"{self.num_questions}: use the same questions and split, or start a new run"
            )
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                "the checkpoint was made with other training questions (fingerprint "
                f"{state['fingerprint']!r}, now "
                f"{self.fingerprint!r}): use the same question file, or start a new run"
            )
        if not 0 <= state["position"] <= self.num_questions or state["epoch"] < 0:
            raise InputError(f"the checkpoint's prompt cursor is damaged: {state}")
        self.seed = state["seed"]
        self._start()
        for _ in range(state["epoch"] * self.num_questions + state["position"]):
            self._drawn_S[self._next_source()] += 1

    def _draw(self) -> int:
        source = self._next_source()
        epoch, position = divmod(self._drawn_S[source], self._shares[source].size)
        self._drawn_S[source] += 1
        if source not in self._orders or self._orders[source][0] != epoch:
            self._orders[source] = (epoch, self._order(source, epoch))
        return self._orders[source][1][position]

    def _next_source(self) -> int:
        """The source that is furthest behind its weight; the first of equals."""
        if len(self._shares) == 1:
            return 0
        due = (self._drawn + 1) / sum(share.weight for share in self._shares)
        behind_S = [
            share.weight * due - drawn for share, drawn in zip(self._shares, self._drawn_S, strict=True)
        ]
        return max(range(len(behind_S)), key=lambda source: (behind_S[source], -source))

    def _order(self, source: int, epoch: int) -> list[int]:
        def key(index: int) -> bytes:
            return hashlib.blake2b(f"{self.seed}/{epoch}/{index}".encode(), digest_size=16).digest()

        first = sum(share.size for share in self._shares[:source])
        order = sorted(range(first, first + self._shares[source].size), key=key)
        if epoch or not self._curriculum_prompts:
            return order
        weight = self._shares[source].weight / sum(share.weight for share in self._shares)
        return by_growing_hops(
            order, [self._hops_N[index] or 0 for index in order], self._curriculum_prompts * weight
        )


def by_growing_hops(order: list[int], hops: list[int], prompts: float) -> list[int]:
    """`order`, re-ordered so that position p holds one of the first 1 + p / prompts * L of the L numbers of
    hops, while there are any; within that, the order stays. `hops[k]` belongs to `order[k]`."""
    levels = sorted(set(hops))
    waiting = [[k for k in range(len(order)) if hops[k] == level][::-1] for level in levels]
    found: list[int] = []
    for position in range(len(order)):
        allowed = 1 + int(position / prompts * len(levels))
        ready = [queue for queue in waiting[:allowed] if queue] or [next(queue for queue in waiting if queue)]
        found.append(order[min(ready, key=lambda queue: queue[-1]).pop()])
    return found
