"""Which prompt comes next: a deterministic shuffle per epoch that a checkpoint can hold in five numbers.

The order of an epoch is that of BLAKE2 digests of (seed, epoch, index): fixed by definition, so that a run resumed
under another version of NumPy or Python still skips and repeats nothing.
"""

from __future__ import annotations

import hashlib

from envs.data.errors import InputError


class PromptCursor:
    """Walks over `num_questions` indices, each exactly once per epoch, in an order that `seed` and the epoch decide.

    Args:
        num_questions: how many there are, at least 1.
        seed: any integer.
        fingerprint: identity of the questions (`questions.fingerprint`); a state of another identity is refused.
    """

    def __init__(self, num_questions: int, seed: int, fingerprint: str = ""):
        if num_questions < 1:
            raise InputError("there are no questions to draw from: the question file or the split of it is empty")
        self.num_questions = num_questions
        self.seed = seed
        self.fingerprint = fingerprint
        self.epoch = 0
        self.position = 0
        """How many indices of this epoch have been drawn."""
        self._order = self._order_of_epoch()

    def next(self, n: int) -> list[int]:
        """The next `n` indices. Goes on into the next epoch: a draw across the border may name an index twice."""
        if n < 0:
            raise ValueError(f"can't draw {n} prompts")
        drawn: list[int] = []
        while len(drawn) < n:
            if self.position == self.num_questions:
                self.epoch += 1
                self.position = 0
                self._order = self._order_of_epoch()
            taken = self._order[self.position : self.position + n - len(drawn)]
            drawn += taken
            self.position += len(taken)
        return drawn

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
        """Go on exactly where `state` was taken. The saved seed holds, so that the epoch under way keeps its order.

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
                f"the checkpoint was made with other training questions (fingerprint {state['fingerprint']!r}, now "
                f"{self.fingerprint!r}): use the same question file, or start a new run"
            )
        if not 0 <= state["position"] <= self.num_questions or state["epoch"] < 0:
            raise InputError(f"the checkpoint's prompt cursor is damaged: {state}")
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self.position = state["position"]
        self._order = self._order_of_epoch()

    def _order_of_epoch(self) -> list[int]:
        def key(index: int) -> bytes:
            return hashlib.blake2b(f"{self.seed}/{self.epoch}/{index}".encode(), digest_size=16).digest()

        return sorted(range(self.num_questions), key=key)
