"""Questions with gold answers, from the two formats that search-agent work shares.

FlashRAG JSONL: `id`, `question`, `golden_answers`, `metadata`. IGPO/verl Parquet: `prompt` (chat messages),
`reward_model.ground_truth` (aliases joined by `<|answer_split|>`), `data_source`, `extra_info.index`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from envs.data.corpus import Corpus
from envs.data.errors import InputError
from envs.data.jsonl import read_jsonl, require_file, require_unicode, text_field
from envs.search.trajectory import Question

logger = logging.getLogger(__name__)

ANSWER_SPLIT = "<|answer_split|>"
"""Separates aliases in the Parquet format (official IGPO data)."""


def load_questions(path: str | Path) -> list[Question]:
    """All questions of a `.jsonl` (FlashRAG) or `.parquet` (IGPO/verl) file, in file order.

    Raises:
        InputError: missing or unreadable file, unknown suffix, malformed line or row (named), a question without golden
            answers, two questions of one id, no questions at all.
    """
    questions = list(iter_questions(path))
    if not questions:
        raise InputError(f"{path} holds no questions")
    return questions


def iter_questions(path: str | Path) -> Iterator[Question]:
    """Stream the questions of a file; raises as `load_questions`, except for an empty file."""
    path = Path(path)
    if path.suffix == ".jsonl":
        located = _read_flashrag(path)
    elif path.suffix == ".parquet":
        located = _read_parquet(path)
    else:
        require_file(path, "question file")
        raise InputError(f"question file {path} is neither .jsonl (FlashRAG) nor .parquet (IGPO/verl): rename or convert it")
    seen: dict[str, str] = {}
    for where, question in located:
        if question.id in seen:
            raise InputError(f"{where}: id {question.id!r} was already used at {seen[question.id]}: ids must be unique")
        seen[question.id] = where
        yield question


def split_by_hash(questions: Sequence[Question], heldout_share: float) -> tuple[list[Question], list[Question]]:
    """(train, held-out), decided for each question alone by SHA-256 of its text: the same everywhere, in any order.

    The text and not the id decides, so one question under two ids never lands on both sides.

    Raises:
        InputError: one side would be empty.
    """
    if not 0 < heldout_share < 1:
        raise InputError(f"heldout_share must lie between 0 and 1, got {heldout_share}")
    train: list[Question] = []
    heldout: list[Question] = []
    for question in questions:
        text = " ".join(question.text.casefold().split()).encode("utf-8", "surrogatepass")
        fraction = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
        (heldout if fraction < heldout_share else train).append(question)
    if not train or not heldout:
        raise InputError(
            f"splitting {len(questions)} questions with heldout_share {heldout_share} leaves {len(train)} for training "
            f"and {len(heldout)} held out: give more questions, another share, or a file of held-out questions"
        )
    return train, heldout


def resolve_gold_documents(questions: Iterable[Question], corpus: Corpus) -> list[Question]:
    """The questions with `gold_document_ids` filled from `metadata["supporting_titles"]`, in the order of the titles.

    Where the corpus cuts an article into several passages of one title, all of them count as gold. A title that the
    corpus lacks can't be retrieved and is left out; how many those are is logged as a warning. Questions that have ids
    or name no titles are returned as they are.
    """
    resolved: list[Question] = []
    titles, missing = 0, []
    for question in questions:
        gold_ids: dict[str, None] = {}
        for title in question.metadata.get("supporting_titles", []) if not question.gold_document_ids else []:
            titles += 1
            found = corpus.ids_with_title(title)
            gold_ids.update(dict.fromkeys(found))
            if not found:
                missing.append(title)
        resolved.append(replace(question, gold_document_ids=list(gold_ids)) if gold_ids else question)
    if missing:
        logger.warning(
            "%d of %d supporting titles are not in %s (first: %r): gold evidence is incomplete for their questions",
            len(missing), titles, corpus.source, missing[0],
        )  # fmt: skip
    return resolved


def fingerprint(questions: Iterable[Question]) -> str:
    """SHA-256 (hex) over ids, texts and golds in order: identity of a question set, logged and checked on resume."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.id, question.text, question.golds]).encode() + b"\n")
    return digest.hexdigest()


def _read_flashrag(path: Path) -> Iterator[tuple[str, Question]]:
    for number, record in read_jsonl(path, "question file"):
        where = f"{path}:{number}"
        question_id = text_field(record, "id", where)
        metadata = record.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise InputError(f"{where}: `metadata` must be an object, found {type(metadata).__name__}")
        titles = _supporting_titles(metadata, where)
        if titles:
            metadata = metadata | {"supporting_titles": titles}
        question = Question(
            id=question_id,
            text=_question_text(text_field(record, "question", where), where),
            golds=_golds(record.get("golden_answers"), question_id, where, "golden_answers"),
            data_source=path.stem,
            hops=_hops(metadata, where) or len(titles) or None,
            metadata=metadata,
        )
        yield where, question


def _read_parquet(path: Path) -> Iterator[tuple[str, Question]]:
    import pyarrow
    import pyarrow.parquet

    require_file(path, "question file")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} can't be read as Parquet ({error}): is it complete?") from error
    with file:
        columns = set(file.schema_arrow.names)
        lacking = {"prompt", "reward_model"} - columns
        if lacking:
            raise InputError(f"{path} lacks the column(s) {', '.join(sorted(lacking))}; found {', '.join(sorted(columns))}")
        wanted = sorted(columns & {"data_source", "prompt", "reward_model", "extra_info"})
        row = 0
        for batch in file.iter_batches(columns=wanted):
            for record in batch.to_pylist():
                where = f"{path} row {row}"
                yield where, _question_of_row(record, row, where)
                row += 1


def _question_of_row(record: dict, row: int, where: str) -> Question:
    data_source = record.get("data_source") or ""
    extra_info = record.get("extra_info")
    index = extra_info.get("index") if isinstance(extra_info, dict) else None
    # An integer index counts within its data source only (verl's preprocessing), a text index is an identifier.
    if not (isinstance(index, str) and index):
        index = f"{data_source or 'row'}-{row if index in (None, '') else index}"
    reward_model = record["reward_model"]
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    aliases = truth.split(ANSWER_SPLIT) if isinstance(truth, str) else truth
    return Question(
        id=index,
        text=_question_text(_last_user_message(record["prompt"], where), where),
        golds=_golds(aliases, index, where, "reward_model.ground_truth"),
        data_source=data_source,
    )


def _last_user_message(prompt: object, where: str) -> str:
    """The bare question; a system message holds the writer's own instructions, and this project has its own."""
    messages = prompt if isinstance(prompt, list) else []
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            return message["content"]
    raise InputError(f"{where}: `prompt` must be a list of chat messages with a `user` message that holds the question")


def _question_text(text: str, where: str) -> str:
    if not text.strip():
        raise InputError(f"{where}: the question is empty: give it text or remove it")
    require_unicode(text, "the question", where)
    return text.strip()


def _golds(value: object, question_id: str, where: str, key: str) -> list[str]:
    """Gold answers stripped, without empty ones and repetitions, in order."""
    candidates = [value] if isinstance(value, str) else value
    if candidates is None:
        candidates = []
    if not isinstance(candidates, list) or not all(isinstance(gold, str) for gold in candidates):
        raise InputError(f"{where}: `{key}` of question {question_id!r} must be a list of texts, found {value!r:.80}")
    for gold in candidates:
        require_unicode(gold, f"`{key}`", where)
    golds = list(dict.fromkeys(gold.strip() for gold in candidates if gold.strip()))
    if not golds:
        raise InputError(
            f"{where}: question {question_id!r} has no golden answers: put at least one non-empty text into `{key}` or remove it"
        )
    return golds


def _supporting_titles(metadata: dict, where: str) -> list[str]:
    """Distinct titles of the evidence: `supporting_titles`, or FlashRAG's own `supporting_facts.title`."""
    titles = metadata.get("supporting_titles")
    if titles is None and isinstance(metadata.get("supporting_facts"), dict):
        titles = metadata["supporting_facts"].get("title")
    if titles is None:
        return []
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise InputError(f"{where}: `metadata.supporting_titles` must be a list of titles, found {titles!r:.80}")
    return list(dict.fromkeys(titles))


def _hops(metadata: dict, where: str) -> int | None:
    hops = metadata.get("hops")
    if hops is None:
        return None
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 1:
        raise InputError(f"{where}: `metadata.hops` must be a whole number from 1, found {hops!r:.80}")
    return hops
