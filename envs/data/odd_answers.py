"""Gold answers that a metric does not compare as one would think, each kind as a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable

from envs.data.answer_metrics import normalise_paper, normalise_squad
from envs.data.question import Question
from envs.data.unspaced import is_unspaced

MAX_EXAMPLES = 3
BY_WORDS = ("f1", "f1_paper", "f1_squad")
"""Outcomes that compare words, as blanks separate them."""
_ENTITY = re.compile(r"&(#\d+|#x[0-9a-f]+|[a-z][a-z0-9]*);", re.IGNORECASE)


def odd_answers(questions: Iterable[Question], outcome: str = "f1") -> list[str]:
    """Says what happens to gold answers that normalise to nothing, have no blanks, or hold HTML entities.

    Args:
        questions: the questions.
        outcome: the name of the outcome that the run pays.

    Returns:
        One sentence per kind that occurs, with the number of answers and the first of them.
    """
    punctuation, articles, unspaced, entities = [], [], [], []
    for question in questions:
        for gold in question.golds:
            if not normalise_paper(gold):
                punctuation.append((gold, question))
            elif not normalise_squad(gold):
                articles.append((gold, question))
            if is_unspaced(gold):
                unspaced.append((gold, question))
            if _ENTITY.search(gold):
                entities.append((gold, question))
    sentences = []
    if punctuation:
        sentences.append(
            _counted(punctuation, "nothing but punctuation")
            + "f1_paper and f1_squad are 0 for every answer, EM is 1 for any answer that is nothing but "
            "punctuation; f1_chars compares as written"
        )
    if articles:
        sentences.append(
            _counted(articles, "nothing but articles")
            + "SQuAD's dialect removes them, so f1_squad is 0 for every answer and em_squad is 1 for any "
            "answer that is nothing but articles and punctuation; the other metrics compare as written"
        )
    if unspaced and outcome in BY_WORDS:
        sentences.append(
            _counted(unspaced, "written without blanks between words")
            + f"outcome `{outcome}` takes each for one word; set `outcome: f1_chars`, for characters"
        )
    if entities:
        sentences.append(
            _counted(entities, "written with HTML entities")
            + "answers are compared with them as they stand, so replace them in the file (titles need no "
            "such care)"
        )
    return sentences


def _counted(found: list[tuple[str, Question]], what: str) -> str:
    examples = ", ".join(f"{gold[:40]!r} of {question.id}" for gold, question in found[:MAX_EXAMPLES])
    more = ", ..." if len(found) > MAX_EXAMPLES else ""
    answers = "gold answer is" if len(found) == 1 else "gold answers are"
    return f"{len(found):,} {answers} {what} ({examples}{more}): "
