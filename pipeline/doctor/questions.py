"""Looks at every question before a run: does its prompt leave room for a decision, and has it belief?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.search.task import SearchTask

KEPT = 1000
"""Ids that a run's metadata names."""


@dataclass
class Seen:
    """What was seen of the questions of one split.

    Attributes:
        questions: their number.
        too_long: ids of those whose prompt leaves no room for a decision.
        without_belief: ids of those whose gold answers are all too long to score.
        longest_prompt: in tokens.
        context_needed: by setting, the least limit of a context that gives every prompt room; only settings
            that leave a prompt none.
    """

    questions: int = 0
    too_long: list[str] = field(default_factory=list)
    without_belief: list[str] = field(default_factory=list)
    longest_prompt: int = 0
    context_needed: dict[str, int] = field(default_factory=dict)

    def note(self) -> dict[str, Any]:
        """The facts for a run's metadata."""
        lists = {"too_long": self.too_long, "without_belief": self.without_belief}
        facts = {name: {"count": len(ids), "ids": ids[:KEPT]} for name, ids in lists.items()}
        return {"questions": self.questions, **facts}


def look_at_questions(
    task: SearchTask, on_looked: Callable[[int, int], object] = lambda done, total: None
) -> dict[str, Seen]:
    """Looks at all training and held-out questions of `task`.

    Args:
        task: the loaded task.
        on_looked: gets the number of questions done and of all of them, now and then.

    Returns:
        What was seen, by split: "train" and "heldout".
    """
    splits = {"train": task.train_questions, "heldout": task.heldout_questions}
    total, done = sum(map(len, splits.values())), 0
    seen = {split: Seen(len(questions)) for split, questions in splits.items()}
    for split, questions in splits.items():
        found = seen[split]
        for question in questions:
            rooms = task.rooms(question)
            prompt = len(task.prompt(task.settings.roles[0], question))
            found.longest_prompt = max(found.longest_prompt, prompt)
            for setting, room in rooms.items():
                if room < 1:
                    least = task.context_limit(setting) - room + 1
                    found.context_needed[setting] = max(found.context_needed.get(setting, 0), least)
            if min(rooms.values()) < 1:
                found.too_long.append(question.id)
            if not task.answer_templates(question).golds_K:
                found.without_belief.append(question.id)
            done += 1
            if done % 200 == 0:
                on_looked(done, total)
    return seen
