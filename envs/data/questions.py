"""Loads questions with gold answers, splits them, and finds their evidence in a corpus."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from envs.data.corpus import Corpus
from envs.data.question import Question
from envs.data.question_formats import MADE_BY_HASH, iter_records
from envs.data.sources.field_names import STANDARD, FieldNames
from envs.data.sources.question_shapes import Unusable
from envs.errors import InputError

logger = logging.getLogger(__name__)

REPEATED = "repeated (the same question and answers, without an id)"


def load_questions(source: str | Path, names: FieldNames = STANDARD) -> list[Question]:
    """Loads all questions of a source, in order. A warning counts what is left out, by reason.

    Args:
        source: a file (JSONL, JSON, CSV, TSV, Parquet), a folder, `FOLDER@SPLIT`, or
            `hf:NAME[:CONFIG][@SPLIT]`, in any shape of `envs.data.sources.question_shapes`.
        names: what it calls the parts of a question, where not by a known shape.

    Raises:
        InputError: the source is missing, unreadable or empty, its ending or shape is unknown, a record is
            malformed (the message names it) or has no golden answers, or two questions share an id.
    """
    left_out: Counter[str] = Counter()
    questions = list(iter_questions(source, names, left_out))
    if not questions:
        reasons = f" that can be played ({told(left_out)})" if left_out else ""
        raise InputError(f"{source} holds no questions{reasons}")
    if left_out:
        logger.warning("left out of %s: %s", source, told(left_out))
    return questions


def told(left_out: Counter[str]) -> str:
    """The reasons with their numbers, the commonest first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())


def iter_questions(
    source: str | Path, names: FieldNames = STANDARD, left_out: Counter[str] | None = None
) -> Iterator[Question]:
    """Streams the questions of a source. Raises as `load_questions`, but not for an empty source.

    Args:
        source: as of `load_questions`.
        names: likewise.
        left_out: counts by reason the records that are marked as having no answer, and repetitions of a
            question without an id.
    """
    seen: dict[str, str] = {}
    for record in iter_records(source, names=names):
        try:
            question = record.question()
        except Unusable as reason:
            if left_out is not None:
                left_out[str(reason)] += 1
            continue
        if question.id in seen:
            if question.id.startswith(MADE_BY_HASH):
                if left_out is not None:
                    left_out[REPEATED] += 1
                continue
            raise InputError(
                f"{record.where}: id {question.id!r} was already used at {seen[question.id]}: ids must be "
                "unique"
            )
        seen[question.id] = record.where
        yield question


def load_sources(sources: str | Mapping[str, float], names: FieldNames = STANDARD) -> list[list[Question]]:
    """Loads the questions of each source.

    With several sources, ids get the prefix `data source/`, because they are unique only within a file.

    Args:
        sources: one source, or several as the keys of a mapping.
        names: as of `load_questions`; a source that has none of these names is read by its shape.

    Raises:
        InputError: as `load_questions`, or two sources hold the same id.
    """
    if isinstance(sources, str):
        return [load_questions(sources, names)]
    loaded = [
        [
            replace(question, id=f"{question.data_source}/{question.id}")
            for question in load_questions(source, names)
        ]
        for source in sources
    ]
    owner: dict[str, str] = {}
    for source, questions in zip(sources, loaded, strict=True):
        for question in questions:
            other = owner.setdefault(question.id, source)
            if other != source:
                raise InputError(
                    f"{source} and {other} both hold a question {question.id}: rename one file or its "
                    "questions"
                )
    return loaded


def folded(text: str) -> str:
    """The text without differences of case and white space; equal questions have equal folded texts."""
    return " ".join(text.casefold().split())


def without(questions: Sequence[Question], heldout: Iterable[Question]) -> list[Question]:
    """The questions whose text is not held out as well."""
    texts = {folded(question.text) for question in heldout}
    return [question for question in questions if folded(question.text) not in texts]


def split_by_hash(
    questions: Sequence[Question], heldout_share: float
) -> tuple[list[Question], list[Question]]:
    """Splits questions by SHA-256 of their texts.

    The text alone decides, so the split is the same on every machine and in any order, and a question under
    two ids is never on both sides.

    Args:
        questions: the questions.
        heldout_share: the expected share of held-out questions, between 0 and 1.

    Returns:
        (training questions, held-out questions).

    Raises:
        InputError: the share is not between 0 and 1, or one side would be empty.
    """
    if not 0 < heldout_share < 1:
        raise InputError(f"heldout_share must lie between 0 and 1, got {heldout_share}")
    train: list[Question] = []
    heldout: list[Question] = []
    for question in questions:
        text = folded(question.text).encode("utf-8", "surrogatepass")
        fraction = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
        (heldout if fraction < heldout_share else train).append(question)
    if not train or not heldout:
        raise InputError(
            f"splitting {len(questions)} questions with heldout_share {heldout_share} leaves {len(train)} "
            f"for training and {len(heldout)} held out: give more questions, another share, or a file of "
            "held-out questions"
        )
    return train, heldout


def resolve_gold_documents(questions: Iterable[Question], corpus: Corpus | None) -> list[Question]:
    """Fills `gold_document_ids` from `metadata["supporting_titles"]`, in the order of the titles.

    If the corpus cuts an article into several passages of one title, all of them count as gold. A title or id
    that the corpus lacks cannot be retrieved and is left out; a warning gives the number of such.

    Args:
        questions: the questions. Those that have ids keep those of the corpus.
        corpus: the documents; None where only a server has them, which leaves all questions as they are.
    """
    if corpus is None:
        return list(questions)
    resolved: list[Question] = []
    asked: Counter[str] = Counter()
    missing: dict[str, list[str]] = {"titles": [], "documents": []}
    for question in questions:
        gold_ids: dict[str, None] = {}
        kind = "documents" if question.gold_document_ids else "titles"
        for wanted in question.gold_document_ids or question.metadata.get("supporting_titles", []):
            asked[kind] += 1
            found = (
                corpus.ids_with_title(wanted)
                if kind == "titles"
                else [wanted]
                if wanted in corpus.ids
                else []
            )
            gold_ids.update(dict.fromkeys(found))
            if not found:
                missing[kind].append(wanted)
        stays = list(gold_ids) == question.gold_document_ids
        resolved.append(question if stays else replace(question, gold_document_ids=list(gold_ids)))
    for kind, lacking in missing.items():
        if lacking:
            logger.warning(
                "%d of %d supporting %s are not in %s (first: %r): gold evidence is incomplete for their "
                "questions",
                len(lacking), asked[kind], kind, corpus.source, lacking[0],
            )  # fmt: skip
    return resolved


def named(ids: Sequence[str], shown: int = 5) -> str:
    """The first ids, for a message, and how many more there are."""
    more = f" and {len(ids) - shown:,} more" if len(ids) > shown else ""
    return ", ".join(ids[:shown]) + more


def fingerprint(questions: Iterable[Question]) -> str:
    """SHA-256 (hex) over ids, texts and golds in order.

    It identifies a question set: every run logs it, and a resumed run checks it.
    """
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.id, question.text, question.golds]).encode() + b"\n")
    return digest.hexdigest()
