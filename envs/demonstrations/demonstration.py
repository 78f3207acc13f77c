"""`Demonstration`: a question with the searches that find its answer; its file format, load and save.

A demonstration file is a question file (FlashRAG JSONL) whose `metadata.searches` holds the queries, hop by
hop. So it also serves as `questions` or `heldout_questions` of an experiment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from envs.data.jsonl import write_jsonl
from envs.data.question import Question
from envs.data.questions import load_questions
from envs.data.sources.field_names import STANDARD, FieldNames
from envs.errors import InputError


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question and the queries to search for, in order, before giving its first gold answer."""

    question: Question
    searches: list[str]


def load_demonstrations(source: str | Path, names: FieldNames = STANDARD) -> list[Demonstration]:
    """Loads the demonstrations of a question file, whose parts `names` may name.

    Raises:
        InputError: as `load_questions`, or a question has no `metadata.searches`.
    """
    demonstrations = []
    for question in load_questions(source, names):
        searches = question.metadata.get("searches")
        is_texts = isinstance(searches, list) and all(
            isinstance(text, str) and text.strip() for text in searches
        )
        if not is_texts or not searches:
            raise InputError(
                f"{source}: question {question.id!r} is no demonstration: `metadata.searches` must be a "
                "list of queries"
            )
        demonstrations.append(Demonstration(question, searches))
    return demonstrations


def save_demonstrations(demonstrations: Iterable[Demonstration], path: Path) -> None:
    """Writes a demonstration file, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    lines = [
        {
            "id": one.question.id,
            "question": one.question.text,
            "golden_answers": one.question.golds,
            "metadata": {**one.question.metadata, "searches": one.searches},
        }
        for one in demonstrations
    ]
    write_jsonl(path, lines)
