"""Reads questions from the records of any source (`envs.data.sources`), whatever their shape."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.data.jsonl import is_whole, require_unicode, text_field
from envs.data.question import Question
from envs.data.sources.beir import part_of, read_queries
from envs.data.sources.field_names import STANDARD, FieldNames, NamesSeen
from envs.data.sources.files import folder_and_split, read_records
from envs.data.sources.question_shapes import ANSWERS, IDS, Parts, read_parts, shape_of
from envs.data.sources.tables import ReadCell, list_in_cell, whole_number
from envs.errors import InputError

logger = logging.getLogger(__name__)

MADE_BY_HASH = "hash-"
"""Begins the id of a question that has none in its file."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source, before it is read as a question.

    Attributes:
        where: the place, such as "file:line".
        row: number of the record, from 0.
        fields: its fields.
        data_source: name of its data set.
        names: what the experiment calls the fields.
    """

    where: str
    row: int
    fields: dict
    data_source: str
    names: FieldNames = STANDARD

    @property
    def shape(self) -> str:
        """The name of its shape. Raises InputError where it has none that is known."""
        try:
            return shape_of(self.fields, self.names)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error

    def question(self) -> Question:
        """Reads the question.

        Raises:
            InputError: the record is malformed; the message names `where`.
            Unusable: it is marked as having no answer.
        """
        shape = self.shape
        parts = read_parts(self.fields, shape, self.names, self.where)
        if shape == "IGPO/verl":
            return _question_of_igpo(self, parts)
        return _question(self, parts)


def iter_records(
    source: str | Path,
    on_bad: Callable[[InputError], object] | None = None,
    names: FieldNames = STANDARD,
) -> Iterator[Record]:
    """Streams the records of a source.

    Args:
        source: a file, a folder, `FOLDER@SPLIT`, or `hf:NAME[:CONFIG][@SPLIT]`; only one record at a time is
            in memory, but of a JSON array.
        on_bad: called with the error of a bad JSONL line, after which reading goes on; None raises the error.
        names: what the source calls the parts of a question, where it has these names.

    Raises:
        InputError: the source is missing or unreadable, its ending is unknown, without `on_bad` a line is not
            a JSON object, or no record has a name of `names` though some have another. Where none has any of
            them, a warning says so.
    """
    folder, split = folder_and_split(source)
    if folder.is_dir() and part_of(folder, "queries") is not None:
        name, records = folder.absolute().name, read_queries(folder, split, str(source))
    else:
        name, records = read_records(source, "question file", on_bad, cell=_cells_of(names))
    seen = NamesSeen(names)
    for where, row, fields in records:
        seen.look_at(fields)
        yield Record(where, row, fields, name, names)
    if seen.any:
        seen.refuse_unseen("fields", source)
    elif seen.unseen:
        words = "no record of %s has the named field %s: its records are read by their shape"
        logger.warning(words, source, " or ".join(seen.unseen))


def _cells_of(names: FieldNames) -> ReadCell:
    """How a CSV's cells are read: ids and hops may be pandas' `3.0`; answers, aliases and titles are a list,
    or the text that is written.
    """
    wholes = {*IDS, "Id", names.id, names.hops}
    lists = {*ANSWERS, "Answer", "answer_aliases", names.answers, names.aliases, names.titles}

    def read(column: str, text: str) -> Any:
        if column in lists:
            return list_in_cell(text)
        return whole_number(text) if column in wholes else text

    return read


def _question(record: Record, parts: Parts) -> Question:
    where = record.where
    if parts.question is None:
        raise InputError(f"{where}: no `question` (found {', '.join(map(repr, record.fields))})")
    text = _question_text(parts.question, where)
    named = _id(parts.id, where)
    golds = _golds(parts.answers, named or text, where, parts.answers_key)
    titles = _titles(parts.titles, where)
    return Question(
        id=named or _hashed(text, golds),
        text=text,
        golds=golds,
        data_source=record.data_source,
        hops=_hops(parts.hops, where) or len(titles) or None,
        gold_document_ids=list(parts.gold_document_ids),
        metadata=parts.metadata | {"supporting_titles": titles} if titles else parts.metadata,
    )


def _question_of_igpo(record: Record, parts: Parts) -> Question:
    fields, where = record.fields, record.where
    # A Parquet file of verl names its split, not its data set.
    named = "" if where.partition(" row ")[0].endswith(".parquet") else record.data_source
    data_source = text_field(fields, "data_source", where) if fields.get("data_source") else named
    index = parts.id
    if is_whole(index):
        index = int(index)
    # An integer index counts within its data source only (verl's preprocessing), a text index is an
    # identifier. pandas writes NaN where there is none.
    if not (isinstance(index, str) and index):
        row = record.row if index in (None, "") or index != index else index
        index = f"{data_source or 'row'}-{row}"
    return Question(
        id=index,
        text=_question_text(parts.question, where),
        golds=_golds(parts.answers, index, where, parts.answers_key),
        data_source=data_source,
    )


def _id(value: Any, where: str) -> str:
    """The id as text; empty where there is none, or pandas' NaN."""
    if value is None or value != value or value == "":
        return ""
    return text_field({"id": value}, "id", where)


def _hashed(text: str, golds: list[str]) -> str:
    """An id from the question and its answers: the same in every file, order and program."""
    digest = hashlib.sha256(json.dumps([text, golds]).encode()).hexdigest()
    return f"{MADE_BY_HASH}{digest[:16]}"


def _question_text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{where}: the question must be text, found {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{where}: the question is empty: give it text or remove it")
    require_unicode(text, "the question", where)
    return text.strip()


def _golds(value: object, question_id: str, where: str, key: str) -> list[str]:
    """The gold answers in order, stripped, without empty ones and repetitions."""
    candidates = [value] if isinstance(value, str) else value
    if candidates is None:
        candidates = []
    if not isinstance(candidates, list) or not all(isinstance(gold, str) for gold in candidates):
        items = candidates if isinstance(candidates, list) else [candidates]
        number = next((gold for gold in items if isinstance(gold, int | float) and gold == gold), None)
        cure = "" if number is None else f': write "{json.dumps(number)}", with quotes'
        raise InputError(
            f"{where}: `{key}` of question {question_id!r} must be a list of texts, found {value!r:.80}{cure}"
        )
    for gold in candidates:
        require_unicode(gold, f"`{key}`", where)
    golds = list(dict.fromkeys(gold.strip() for gold in candidates if gold.strip()))
    if not golds:
        raise InputError(
            f"{where}: question {question_id!r} has no golden answers: put at least one non-empty text into "
            f"`{key}` or remove it"
        )
    return golds


def _titles(titles: object, where: str) -> list[str]:
    """Distinct titles of the evidence."""
    if titles is None:
        return []
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise InputError(
            f"{where}: `metadata.supporting_titles` must be a list of titles, found {titles!r:.80}"
        )
    return list(dict.fromkeys(titles))


def _hops(hops: object, where: str) -> int | None:
    if hops is None:
        return None
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 1:
        raise InputError(f"{where}: `metadata.hops` must be a whole number from 1, found {hops!r:.80}")
    return hops
