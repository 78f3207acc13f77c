"""Which rollouts are made of which questions, each with an identity and seeds of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from envs.runner.rollout_loop import RolloutJob
from envs.search.trajectory import Question


def training_jobs(
    questions: Sequence[Question], drawn: Iterable[int], *, iteration: int, group_size: int, seed: int, drawn_before: Counter[int]
) -> list[list[RolloutJob]]:
    """A group of `group_size` rollouts for each of `questions` that was drawn.

    `drawn_before` counts the iteration's draws of each question, and is updated: one that comes again, across the border of
    an epoch, is a group of its own with other seeds.
    """
    groups = []
    for index in drawn:
        question, times = questions[index], drawn_before[index]
        drawn_before[index] += 1
        group_id = f"{iteration:06d}/{question.id}" + (f"/again{times}" if times else "")
        groups.append(
            [
                RolloutJob(question, f"{group_id}/{g}", group_id, (seed, iteration, index, times * group_size + g))
                for g in range(group_size)
            ]
        )
    return groups


def heldout_jobs(
    questions: Sequence[Question], *, samples: int, temperature: float, seed: int, first: int = 0
) -> list[list[RolloutJob]]:
    """`samples` rollouts of each question, whose belief is not scored. `first` is the place of the first among all questions:
    of several sources, two may have one id."""
    return [
        [
            RolloutJob(
                question,
                rollout_id=f"heldout/{index}/{question.id}/{k}",
                group_id=f"heldout/{index}/{question.id}",
                seed_parts=(seed, -1, index, k),
                split="heldout",
                temperature=temperature,
                score_beliefs=False,
            )
            for k in range(samples)
        ]
        for index, question in enumerate(questions, first)
    ]
