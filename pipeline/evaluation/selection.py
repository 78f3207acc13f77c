"""Which held-out questions chose the checkpoint `best`, and among how many iterations.

The highest of several scores is too good on average, on the questions that it was the highest on. So
`rllib evaluate` says where it asks them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.data.question import Question
from pipeline.run_directory.checkpoints import NOTE, read_note
from pipeline.run_directory.directory import metadata_in

SELECTION, COMPARED = "selection", "compared_iterations"
"""Keys of the note of a checkpoint that became `best`, and of `run.json`."""


def question_key(question: Question) -> str:
    """A short hash of id and text: data sets number their questions alike."""
    return hashlib.sha256(f"{question.id}\n{question.text}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Selection:
    """How a checkpoint became `best`. None: the run, an old one, did not note it."""

    metric: str
    questions: list[str] | None = None
    """`question_key` of each question that was asked."""
    iterations: list[int] | None = None
    """Iterations whose held-out scores were compared, in order."""

    @classmethod
    def of(cls, questions: Iterable[Question], metric: str, iterations: list[int]) -> Selection:
        """The selection as it goes into the checkpoint's note."""
        return cls(metric, sorted({question_key(question) for question in questions}), list(iterations))

    def note(self) -> dict[str, Any]:
        return {"metric": self.metric, "questions": self.questions, COMPARED: self.iterations}

    def on(self, asked: Iterable[Question]) -> dict[str, Any]:
        """What an evaluation on the questions `asked` says of it, for JSON: counts, None where not known."""
        keys = {question_key(question) for question in asked}
        known = self.questions is not None
        return {
            "metric": self.metric,
            "questions": len(self.questions) if known else None,
            "asked_again": len(keys & set(self.questions or ())) if known else None,
            "asked": len(keys),
            COMPARED: self.iterations,
        }


def selection_of(source: str) -> Selection | None:
    """How the checkpoint `source` was chosen; None if it is no checkpoint, or not its run's `best`."""
    folder = Path(source).expanduser().resolve()
    if not (folder / NOTE).is_file():
        return None
    best = folder.parent / "best"
    if best.exists() and best.resolve() != folder:
        return None
    note = read_note(folder)
    noted = note.get(SELECTION)
    if noted is None:
        # A note of an old run names the best score so far, whoever had it.
        return Selection("em_squad") if best.exists() and note.get("best_score") is not None else None
    compared = metadata_in(folder.parent.parent, note.get("run_id")).get(COMPARED)
    return Selection(noted["metric"], noted["questions"], compared or noted[COMPARED])


def told(chosen: dict[str, Any]) -> str:
    """The result of `Selection.on` in one or two sentences."""
    if chosen["questions"] is None:
        return (
            f"This checkpoint is its run's `best`, chosen by its held-out {chosen['metric']}; the run did "
            "not note on which questions nor among how many iterations. A score on the same questions is too "
            "good on average."
        )
    iterations = chosen[COMPARED]
    among = f"{len(iterations)} iteration{'s' if len(iterations) != 1 else ''}"
    listed = ", ".join(map(str, iterations[:8])) + (", ..." if len(iterations) > 8 else "")
    on = f"{chosen['metric']} on {chosen['questions']} questions"
    by = f"This checkpoint is its run's `best`, chosen by {on}, among {among} ({listed})."
    if not chosen["asked_again"]:
        return f"{by} None of them is asked here."
    again = f"{chosen['asked_again']} of the {chosen['asked']} questions here are among them"
    if len(iterations) < 2:
        return f"{by} {again}."
    return f"{by} {again}, so this score is too good on average: ask others with --questions."
