"""The rollouts to make: of the prompts drawn for training, and of held-out questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from envs.data.question import Question
from envs.runner.job import RolloutJob


def training_jobs(
    questions: Sequence[Question],
    drawn: Iterable[int],
    *,
    iteration: int,
    group_size: int,
    seed: int,
    drawn_before: Counter[int],
) -> list[list[RolloutJob]]:
    """Makes the jobs of one round of training.

    Args:
        questions: the training questions.
        drawn: indices into `questions`, one per group.
        iteration: the iteration that the rollouts are for, from 1.
        group_size: G, rollouts per group.
        seed: the run's seed.
        drawn_before: number of times that each question was drawn in this iteration; updated. A question that
            is drawn again, because a new epoch has begun, gets a second group with other seeds.

    Returns:
        One list of `group_size` jobs per drawn question.
    """
    groups = []
    for index in drawn:
        question, times = questions[index], drawn_before[index]
        drawn_before[index] += 1
        group_id = f"{iteration:06d}/{question.id}" + (f"/again{times}" if times else "")
        groups.append(
            [
                RolloutJob(
                    question, f"{group_id}/{g}", group_id, (seed, iteration, index, times * group_size + g)
                )
                for g in range(group_size)
            ]
        )
    return groups


def heldout_jobs(
    questions: Sequence[Question], *, samples: int, temperature: float, seed: int, first: int = 0
) -> list[list[RolloutJob]]:
    """Makes the jobs of held-out rollouts without belief scoring: one list of `samples` jobs per question.

    `first` is the position of `questions[0]` among all held-out questions. It keeps ids unique, since
    questions of different sources may share an id.
    """
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
