"""Filters training questions by hops and by how often a policy answered them correctly before."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, model_validator

from envs.data.jsonl import require_file
from envs.data.question import Question
from envs.errors import InputError
from envs.settings import Settings


class QuestionFilter(Settings):
    """`question_filter` of an experiment, the conditions on a training question. The default keeps all."""

    min_hops: int | None = Field(
        None, ge=1, description="questions of fewer hops, or of unknown hops, are dropped"
    )
    max_hops: int | None = Field(
        None, ge=1, description="questions of more hops, or of unknown hops, are dropped"
    )
    scores: str | None = Field(
        None, description="what `rllib evaluate --samples K --out FILE` wrote: mean EM per question"
    )
    min_score: float = Field(0.0, ge=0, le=1, description="questions that scored lower are dropped")
    max_score: float = Field(1.0, ge=0, le=1, description="questions that scored higher are dropped")

    @model_validator(mode="after")
    def _check(self):
        if self.scores is None and (self.min_score > 0 or self.max_score < 1):
            raise ValueError(
                "min_score and max_score need `scores`: the file that `rllib evaluate --out` wrote"
            )
        return self


KEEP_ALL = QuestionFilter()
"""The filter that keeps every question."""


def filter_questions(
    questions: Iterable[Question], wanted: QuestionFilter
) -> tuple[list[Question], Counter[str]]:
    """Filters questions.

    Returns:
        The kept questions, in order, and the number of dropped ones by reason.

    Raises:
        InputError: the file `wanted.scores` cannot be read.
    """
    scores = _scores(Path(wanted.scores)) if wanted.scores else None
    kept: list[Question] = []
    dropped: Counter[str] = Counter()
    for question in questions:
        reason = _reason_to_drop(question, wanted, scores)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(question)
    return kept, dropped


def _reason_to_drop(question: Question, wanted: QuestionFilter, scores: dict[str, float] | None) -> str:
    hops = question.hops
    if hops is None and (wanted.min_hops or wanted.max_hops):
        return "hops unknown"
    if hops is not None and wanted.min_hops and hops < wanted.min_hops:
        return f"fewer than {wanted.min_hops} hops"
    if hops is not None and wanted.max_hops and hops > wanted.max_hops:
        return f"more than {wanted.max_hops} hops"
    if scores is None:
        return ""
    score = scores.get(question.text)
    if score is None:
        return "not scored"
    if score < wanted.min_score:
        return f"scored below {wanted.min_score:g}"
    return f"scored above {wanted.max_score:g}" if score > wanted.max_score else ""


def _scores(path: Path) -> dict[str, float]:
    """Question text to mean EM (SQuAD) over its samples. Not by id, which is unique only within a file."""
    require_file(path, "score file")
    by_question: dict[str, list[float]] = defaultdict(list)
    try:
        for episode in json.loads(path.read_text(encoding="utf-8"))["episodes"]:
            by_question[episode["question"]].append(episode["em_squad"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"score file {path} is not what `rllib evaluate --out` writes: {error!r}") from error
    return {question: sum(values) / len(values) for question, values in by_question.items()}
