"""Measures the variety of a policy's samples on training questions.

An estimator compares the samples of a group. Where they are all the same, or none does what the question
needs, nothing can be learned, whatever the estimator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from envs.search.trajectory import ActionKind
from pipeline.doctor.findings import Finding

if TYPE_CHECKING:
    from envs.search.trajectory import Rollout
    from pipeline.evaluation.saved_policy import Policy

GROUPS = 16
"""Training questions that are sampled."""
LARGEST_GROUP = 8
"""Samples of each, at most; fewer where `group_size` is smaller."""


@dataclass(frozen=True)
class Variety:
    """The variety of the samples of some groups.

    Attributes:
        by_searches: {searches of a rollout: (rollouts, their mean exact match, SQuAD's dialect)}, ascending.
        groups: number of groups.
        identical: groups whose rollouts are the same, token for token.
        differing: groups whose outcomes differ.
        needed: searches that the question with the most hops needs; 0 where hops are not known.
    """

    by_searches: dict[int, tuple[int, float]]
    groups: int
    identical: int
    differing: int
    needed: int

    @property
    def rollouts(self) -> int:
        return sum(count for count, _ in self.by_searches.values())

    @property
    def exact_match(self) -> float:
        return sum(count * em for count, em in self.by_searches.values()) / self.rollouts


def variety_of(groups: list[list[Rollout]]) -> Variety:
    """Counts the variety of `groups`, each the rollouts of one prompt."""
    rollouts = [rollout for group in groups for rollout in group]
    searches = [sum(turn.action is ActionKind.TOOL for turn in rollout.turns) for rollout in rollouts]
    right = np.array([rollout.metrics.get("em_squad", 0.0) for rollout in rollouts])
    counts = Counter(searches)
    return Variety(
        by_searches={
            number: (counts[number], float(right[np.array(searches) == number].mean()))
            for number in sorted(counts)
        },
        groups=len(groups),
        identical=sum(len({_text(rollout) for rollout in group}) == 1 for group in groups),
        differing=sum(len({rollout.outcome for rollout in group}) > 1 for group in groups),
        needed=max((rollout.question.hops or 0 for rollout in rollouts), default=0),
    )


def _text(rollout: Rollout) -> tuple[str, ...]:
    return tuple(turn.decision_text for turn in rollout.turns)


def variety(policy: Policy) -> Finding:
    """Samples groups of training questions as training would, and reports their variety."""
    from envs.runner.job import RolloutJob

    size = min(policy.config.group_size, LARGEST_GROUP)
    playable = (question for question in policy.task.train_questions if policy.task.room(question) >= 1)
    jobs = [
        RolloutJob(question, f"doctor/{n}/{k}", f"doctor/{n}", (0, -4, n, k), score_beliefs=False)
        for n, question in enumerate(islice(playable, GROUPS))
        for k in range(size)
    ]
    if not jobs:
        return Finding("variety", "warn", "not measured: no training prompt leaves room for a decision")
    rollouts = [record.rollout for record in policy.loop.run(jobs)[0]]
    return judge(variety_of([rollouts[k : k + size] for k in range(0, len(rollouts), size)]))


def judge(found: Variety) -> Finding:
    """Says whether samples of this variety can teach anything."""
    shares = ", ".join(
        f"{number} {'search' if number == 1 else 'searches'} {count / found.rollouts:.1%} (EM {em:.2f})"
        for number, (count, em) in found.by_searches.items()
    )
    text = (
        f"{found.rollouts} samples of {found.groups} training questions: {shares}; outcomes differ in "
        f"{found.differing} groups, rollouts are identical in {found.identical}"
    )
    most = max(found.by_searches)
    if not found.exact_match:
        advice = "no sample is right, so the outcome teaches nothing: warm the policy up (`igpo warm-start`)"
    elif most < found.needed:
        advice = (
            f"questions need up to {found.needed} searches and no sample makes more than {most}; what is "
            "never sampled is never found: warm up on some demonstrations that do (`igpo warm-start`)"
        )
    elif found.identical > found.groups / 2:
        advice = (
            "identical rollouts have nothing to compare: warm up for fewer epochs, or take harder questions"
        )
    elif not found.differing:
        advice = "no group has outcomes to compare: take easier or harder questions, or a larger group_size"
    else:
        return Finding("variety", "ok", text)
    return Finding("variety", "warn", f"{text}; {advice}")
