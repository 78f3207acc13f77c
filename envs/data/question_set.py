"""The questions of one experiment: loads, splits, filters and mixes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from envs.data.corpus import Corpus
from envs.data.prompt_sampler import PromptSampler, Share
from envs.data.question import Question
from envs.data.question_filter import KEEP_ALL, QuestionFilter, filter_questions
from envs.data.questions import (
    fingerprint,
    load_questions,
    load_sources,
    resolve_gold_documents,
    split_by_hash,
    without,
)
from envs.data.sources.field_names import STANDARD, FieldNames
from envs.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """The questions of one split that come from one source."""

    split: str
    """`train` or `heldout`."""
    source: str
    size: int


@dataclass(frozen=True)
class QuestionSet:
    """Training questions, source after source (`shares`), and held-out questions."""

    train: list[Question]
    heldout: list[Question]
    shares: tuple[Share, ...]
    parts: tuple[Part, ...]
    """Which source the questions of each split come from, in their order."""

    @property
    def identity(self) -> list[dict[str, Any]]:
        """Split, source, number and fingerprint of each part, in plain JSON values."""
        left = {"train": iter(self.train), "heldout": iter(self.heldout)}
        return [
            {
                "split": part.split,
                "source": part.source,
                "content_hash": fingerprint(islice(left[part.split], part.size)),
                "questions": part.size,
            }
            for part in self.parts
        ]

    def with_evidence(self, corpus: Corpus) -> QuestionSet:
        """The same questions with the ids of their evidence documents, where they name those by title."""
        train, heldout = (
            resolve_gold_documents(self.train, corpus),
            resolve_gold_documents(self.heldout, corpus),
        )
        return replace(self, train=train, heldout=heldout)

    def prompt_sampler(
        self, seed: int, curriculum_prompts: int = 0, *, plays: Callable[[int], bool] = lambda index: True
    ) -> PromptSampler:
        """The sampler of training prompts; it draws indices into `train`.

        The fingerprint covers everything that decides the order, so a run cannot resume with other questions.

        Args:
            seed: decides the order.
            curriculum_prompts: number of draws over which the allowed hops grow; 0 is no curriculum.
            plays: whether the question of an index can be played; others are passed over.
        """
        identity = fingerprint(self.train)
        if len(self.shares) > 1 or curriculum_prompts:
            identity += f"/{[(share.size, share.weight) for share in self.shares]}/{curriculum_prompts}"
        return PromptSampler(
            len(self.train),
            seed,
            identity,
            shares=self.shares,
            hops_Q=[question.hops for question in self.train],
            curriculum_prompts=curriculum_prompts,
            plays=plays,
        )


def load_question_set(
    questions: str | Mapping[str, float],
    *,
    heldout_questions: str | None = None,
    heldout_share: float = 0.2,
    question_filter: QuestionFilter = KEEP_ALL,
    names: FieldNames = STANDARD,
) -> QuestionSet:
    """Loads training and held-out questions.

    The filter applies to training questions only: held-out questions measure, they do not teach. A training
    question whose text is held out too is left out, with a warning.

    Args:
        questions: the training source, or {source: weight} for a mixture.
        heldout_questions: the held-out source; None splits a share off `questions` by hash.
        heldout_share: the share to split off, between 0 and 1.
        question_filter: the condition that a training question must meet; the default keeps all.
        names: what the sources call the parts of a question, where not by a known shape.

    Raises:
        InputError: a missing or malformed file, or no questions left in a source or a split.
    """
    sources = load_sources(questions, names)
    if heldout_questions is None:
        everything = [question for source in sources for question in source]
        _, heldout = split_by_hash(everything, heldout_share)
    else:
        heldout = load_questions(heldout_questions, names)
    train = [without(source, heldout) for source in sources]
    both = sum(map(len, sources)) - sum(map(len, train))
    if heldout_questions is not None and both:
        logger.warning("%d training questions are left out: %s holds them too", both, heldout_questions)
    weights = {questions: 1.0} if isinstance(questions, str) else questions
    if heldout_questions is None:
        held = {question.id for question in heldout}
        sizes = [sum(question.id in held for question in source) for source in sources]
        heldout_sizes = dict(zip(weights, sizes, strict=True))
    else:
        heldout_sizes = {heldout_questions: len(heldout)}
    return mix(weights, train, heldout, question_filter, heldout_sizes=heldout_sizes)


def mix(
    weights: Mapping[str, float],
    sources: Sequence[Sequence[Question]],
    heldout: list[Question],
    question_filter: QuestionFilter = KEEP_ALL,
    *,
    heldout_sizes: Mapping[str, int],
) -> QuestionSet:
    """Filters each source and puts the sources one after another.

    Args:
        weights: {name of the source: its share of the draws}, in the order of `sources`.
        sources: the training questions of each source.
        heldout: the held-out questions, which are not filtered.
        question_filter: the condition that a training question must meet; the default keeps all.
        heldout_sizes: {name of the source: number of its questions in `heldout`}, in their order.

    Raises:
        InputError: no questions left in a source.
    """
    train: list[Question] = []
    shares: list[Share] = []
    for (name, weight), questions in zip(weights.items(), sources, strict=True):
        kept, dropped = filter_questions(questions, question_filter)
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
    parts = [
        *(Part("train", name, share.size) for name, share in zip(weights, shares, strict=True)),
        *(Part("heldout", name, size) for name, size in heldout_sizes.items() if size),
    ]
    return QuestionSet(train, heldout, tuple(shares), tuple(parts))
