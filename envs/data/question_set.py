"""The questions of one experiment: read, split, filtered, mixed; and the cursor that draws from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envs.data.corpus import Corpus
from envs.data.prompt_sampler import PromptCursor, Share
from envs.data.question import Question
from envs.data.question_filter import filter_questions
from envs.data.questions import (
    fingerprint,
    load_questions,
    load_sources,
    resolve_gold_documents,
    split_by_hash,
    without,
)
from envs.errors import InputError

if TYPE_CHECKING:
    from envs.search.config import SearchEnvSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuestionSet:
    """Training questions, source after source (`shares`), and held-out ones."""

    train: list[Question]
    heldout: list[Question]
    shares: tuple[Share, ...]

    def with_evidence(self, corpus: Corpus) -> QuestionSet:
        """The same questions with the documents that hold their evidence, where they name it by title."""
        train, heldout = (
            resolve_gold_documents(self.train, corpus),
            resolve_gold_documents(self.heldout, corpus),
        )
        return replace(self, train=train, heldout=heldout)

    def cursor(self, seed: int, curriculum_prompts: int = 0) -> PromptCursor:
        """Draws from `train`.

        Its fingerprint covers whatever decides the order, so that a resumed run is refused another.
        """
        identity = fingerprint(self.train)
        if len(self.shares) > 1 or curriculum_prompts:
            identity += f"/{[(share.size, share.weight) for share in self.shares]}/{curriculum_prompts}"
        return PromptCursor(
            len(self.train),
            seed,
            identity,
            shares=self.shares,
            hops_N=[question.hops for question in self.train],
            curriculum_prompts=curriculum_prompts,
        )


def load_question_set(settings: SearchEnvSettings) -> QuestionSet:
    """The questions that `settings` names. A held-out question is never filtered: it measures, it does not
    teach.

    A training question that `heldout_questions` holds too is left out, with a warning.

    Raises:
        InputError: a missing or malformed file, or nothing left of a source or a split.
    """
    sources = load_sources(settings.questions or "")
    if settings.heldout_questions is None:
        everything = [question for questions in sources for question in questions]
        _, heldout = split_by_hash(everything, settings.heldout_share)
    else:
        heldout = load_questions(settings.heldout_questions)
    train = [without(questions, heldout) for questions in sources]
    both = sum(map(len, sources)) - sum(map(len, train))
    if settings.heldout_questions is not None and both:
        logger.warning(
            "%d training questions are left out: %s holds them too", both, settings.heldout_questions
        )
    named = settings.questions if isinstance(settings.questions, dict) else {str(settings.questions): 1.0}
    return mix(named, train, heldout, settings)


def mix(
    weights: Mapping[str, float],
    sources: Sequence[Sequence[Question]],
    heldout: list[Question],
    settings: SearchEnvSettings,
) -> QuestionSet:
    """The filtered `sources`, one after another. `weights` names them, in the same order.

    Raises:
        InputError: nothing left of a source.
    """
    train: list[Question] = []
    shares: list[Share] = []
    for (name, weight), questions in zip(weights.items(), sources, strict=True):
        kept, dropped = filter_questions(questions, settings.question_filter)
        if not kept:
            reasons = (
                ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
                or "all are held out"
            )
            raise InputError(
                f"{name} has no training questions left ({reasons}): give more or relax `question_filter`"
            )
        train += kept
        shares.append(Share(len(kept), weight))
    return QuestionSet(train, heldout, tuple(shares))
