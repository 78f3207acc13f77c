"""One rollout to make: what a caller of the rollout loop asks for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from envs.data.question import Question


@dataclass(frozen=True, slots=True)
class RolloutJob:
    """One rollout to make.

    Attributes:
        question: the question to answer.
        rollout_id: unique among the jobs of one call.
        group_id: id of the group; its rollouts share the question.
        seed_parts: integers that identify the rollout for good, such as (seed, iteration, prompt, rollout);
            its sampling seeds follow from them.
        split: "train" or "heldout".
        temperature: sampling temperature; 0 is greedy.
        score_beliefs: whether belief in the gold answers is scored, where the question has belief.
    """

    question: Question
    rollout_id: str
    group_id: str
    seed_parts: tuple[int, ...]
    split: str = "train"
    temperature: float = 1.0
    score_beliefs: bool = True


def turn_seed(seed_parts: tuple[int, ...], turn: int) -> int:
    """Returns the sampling seed of one turn, in [0, 2^31): the same on every machine and in every batch."""
    digest = hashlib.blake2b(repr((*seed_parts, turn)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF
