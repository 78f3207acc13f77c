"""Describes a question source: counts, answers, aliases, hops, and the records that a run would not use."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from envs.data.question import AliasRule, Question, eligible_aliases
from envs.data.question_filter import KEEP_ALL, QuestionFilter, filter_questions
from envs.data.question_formats import MADE_BY_HASH, iter_records
from envs.data.questions import REPEATED, folded
from envs.data.sources.field_names import STANDARD, FieldNames
from envs.data.sources.question_shapes import Unusable
from envs.errors import InputError

MAX_EXAMPLES = 5
_PLACE = re.compile(r"(?P<file>.+?(?::| record | row ))(?P<number>\d+): ")
"""Begins a refusal, as readers of all formats write it."""
_NAMED_QUESTION = re.compile(r"question ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")
"""A question by its id, by which two refusals for one reason differ."""


@dataclass
class Description:
    """Facts about one source.

    A run refuses a source that holds a refused record. It leaves dropped questions out of training.
    """

    source: str
    questions: list[Question] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """One sentence per unusable line or record, with its place."""
    repeated: int = 0
    """Number of questions whose text occurred before under another id."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason to number of questions that the filter drops."""
    shapes: Counter[str] = field(default_factory=Counter)
    """Name of a shape to number of records that have it."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason to number of records that hold no question to play."""
    hashed: int = 0
    """Number of questions whose id is made by hash, because their records have none."""

    @property
    def refusals(self) -> list[tuple[str, list[str]]]:
        """(the first refusal for a reason, the numbers of the other lines or records of that file)."""
        found: dict[tuple[str, str], tuple[str, list[str]]] = {}
        for refusal in self.refused:
            place = _PLACE.match(refusal)
            reason = _NAMED_QUESTION.sub("question", refusal[place.end() :] if place else refusal)
            key = (place["file"] if place else "", reason)
            if key not in found:
                found[key] = (refusal, [])
            elif place:
                found[key][1].append(place["number"])
        return list(found.values())

    @property
    def by_source(self) -> Counter[str]:
        """Number of questions by data source."""
        return Counter(question.data_source or "(not named)" for question in self.questions)

    @property
    def by_hops(self) -> list[tuple[str, int]]:
        """(hops, questions), fewest first, "unknown" last."""
        counts = Counter(question.hops for question in self.questions)
        known = sorted(hops for hops in counts if hops is not None)
        return [(str(hops), counts[hops]) for hops in known] + (
            [("unknown", counts[None])] if counts[None] else []
        )

    @property
    def answer_words(self) -> np.ndarray:
        """Number of words of every gold answer, with aliases, int64."""
        return np.array([len(gold.split()) for question in self.questions for gold in question.golds])

    @property
    def aliases(self) -> np.ndarray:
        """Number of gold answers per question, int64."""
        return np.array([len(question.golds) for question in self.questions])

    @property
    def closed_answers(self) -> int:
        """Number of yes/no questions. In these, belief starts high and a guess is often right."""
        return sum(
            any(gold.casefold() in ("yes", "no") for gold in question.golds) for question in self.questions
        )

    @property
    def with_evidence(self) -> int:
        """Number of questions that name their evidence, so that search hits can be recognised."""
        return sum(
            bool(question.gold_document_ids or question.metadata.get("supporting_titles"))
            for question in self.questions
        )

    def long_answers(self, max_words: int) -> tuple[int, int]:
        """Counts long answers. An answer has at least as many tokens as words.

        Returns:
            (gold answers of more than `max_words` words, questions without a shorter one).
        """
        too_long = [[len(gold.split()) > max_words for gold in question.golds] for question in self.questions]
        return sum(map(sum, too_long)), sum(map(all, too_long))

    def without_belief(self, rule: AliasRule, max_answer_tokens: int) -> int:
        """The least number of questions that are played without belief, by the same reasoning."""
        words = ([len(gold.split()) for gold in question.golds] for question in self.questions)
        return sum(eligible_aliases(words_K, rule, max_answer_tokens).size == 0 for words_K in words)


def describe(
    source: str | Path, wanted: QuestionFilter = KEEP_ALL, names: FieldNames = STANDARD
) -> Description:
    """Reads every record of `source`, bad ones included.

    Args:
        source: a file or data set, as `questions` of an experiment.
        wanted: the run's filter; the default keeps every question.
        names: what the source calls the parts of a question, where not by a known shape.

    Raises:
        InputError: the source cannot be read or holds no records.
    """
    found = Description(str(source))
    refuse = lambda error: found.refused.append(str(error))  # noqa: E731
    where_of_id: dict[str, str] = {}
    texts: set[str] = set()
    for record in iter_records(source, on_bad=refuse, names=names):
        try:
            found.shapes[record.shape] += 1
            question = record.question()
        except InputError as error:
            refuse(error)
            continue
        except Unusable as reason:
            found.left_out[str(reason)] += 1
            continue
        made = question.id.startswith(MADE_BY_HASH)
        if question.id in where_of_id:
            if made:
                found.left_out[REPEATED] += 1
            else:
                refuse(f"{record.where}: id {question.id!r} was already used at {where_of_id[question.id]}")
            continue
        found.hashed += made
        where_of_id[question.id] = record.where
        text = folded(question.text)
        found.repeated += text in texts
        texts.add(text)
        found.questions.append(question)
    if not (found.questions or found.refused or found.left_out):
        raise InputError(f"{source} holds no questions")
    _, found.dropped = filter_questions(found.questions, wanted)
    return found
