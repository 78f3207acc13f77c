"""The shapes in which data sets publish questions: recognised by their fields, named, and read.

Every shape becomes the same few parts (`Parts`). A record that is marked as having no answer is not refused:
`Unusable` says why it is left out, and the reader counts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from envs.data.jsonl import is_whole
from envs.data.sources.field_names import FieldNames, named_parts
from envs.data.sources.tables import as_list
from envs.errors import InputError

ANSWER_SPLIT = "<|answer_split|>"
"""Separates aliases in the IGPO form (official IGPO data)."""
ANSWERS = ("golden_answers", "answers", "answer", "possible_answers")
IDS = ("id", "_id", "question_id", "QuestionId", "qid")
_KEPT = ("supporting_facts", "type", "level")
"""Fields that HotpotQA's kin keep as metadata."""
_HOPS_OF_MUSIQUE = re.compile(r"(\d)hop")


FIELDS_ADVICE = "`fields: {question: NAME, answers: NAME}`"
"""What an experiment file says of a file of one's own."""


class Unusable(Exception):
    """A record without a question that can be played. Its text is the reason, the same for all of a kind."""


@dataclass
class Parts:
    """The parts of a question, before they are checked."""

    question: Any
    answers: Any
    """A text, or a list of texts."""
    answers_key: str
    """The field that errors name."""
    id: Any = None
    titles: Any = None
    """Titles of the evidence."""
    hops: Any = None
    gold_document_ids: list[str] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)


def shape_of(record: dict, names: FieldNames) -> str:
    """The name of the record's shape, one of `READERS`.

    Raises:
        InputError: it has none that is known. The message has no place.
    """
    if named_parts(names, record):
        return NAMED
    for shape, fits in _SIGNS:
        if fits(record):
            return shape
    found = ", ".join(map(repr, record)) or "nothing"
    raise InputError(f"no `question` is among the fields {found}: say which are which with {FIELDS_ADVICE}")


def _first(record: dict, keys: tuple[str, ...]) -> Any:
    return next((record[key] for key in keys if record.get(key) is not None), None)


def _joined(*values: Any) -> list | Any:
    """One list of several answers or lists of them; a value of another type as it is, to be refused."""
    together: list = []
    for value in map(as_list, values):
        if value is None:
            continue
        if not isinstance(value, str | list):
            return value
        together += [value] if isinstance(value, str) else value
    return together


def _plain(record: dict, where: str) -> Parts:
    """FlashRAG, NQ-open and their kin: `question` and one of the usual names for its answers."""
    key = next((key for key in ANSWERS if key in record), None)
    if key is None:
        found = ", ".join(map(repr, record))
        raise InputError(
            f"{where}: no `{ANSWERS[0]}` is among the fields {found}: say which are which with "
            f"{FIELDS_ADVICE}"
        )
    metadata = record.get("metadata") or {name: record[name] for name in _KEPT if name in record}
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: `metadata` must be an object, found {type(metadata).__name__}")
    titles = metadata.get("supporting_titles")
    if titles is None:
        titles = _titles_of_facts(metadata.get("supporting_facts"))
    return Parts(
        question=record.get("question"),
        answers=as_list(record.get(key)),
        answers_key=key,
        id=_first(record, IDS),
        titles=titles,
        hops=metadata.get("hops"),
        metadata=metadata,
    )


def _titles_of_facts(facts: Any) -> Any:
    """HotpotQA's own list of [title, sentence], or the hub's {"title": [...], "sent_id": [...]}."""
    if isinstance(facts, dict):
        return facts.get("title")
    if isinstance(facts, list) and all(isinstance(fact, list) and fact for fact in facts):
        return [fact[0] for fact in facts]
    return None


def _musique(record: dict, where: str) -> Parts:
    if record.get("answerable") is False:
        raise Unusable("not answerable")
    shown = record.get("paragraphs") or []
    steps = record.get("question_decomposition")
    counted = _HOPS_OF_MUSIQUE.match(str(record.get("id")))
    return Parts(
        question=record.get("question"),
        answers=_joined(record.get("answer"), record.get("answer_aliases")),
        answers_key="answer",
        id=record.get("id"),
        titles=[part["title"] for part in shown if isinstance(part, dict) and part.get("is_supporting")]
        or None,
        hops=len(steps) if steps else int(counted[1]) if counted else None,
    )


def _trivia_qa(record: dict, where: str) -> Parts:
    record = {name.lower(): value for name, value in record.items()}
    answer = {name.lower(): value for name, value in record["answer"].items()}
    return Parts(
        question=record.get("question"),
        answers=_joined(answer.get("value"), answer.get("aliases")),
        answers_key="answer.value",
        id=_first(record, ("question_id", "questionid", "id")),
    )


def _squad(record: dict, where: str) -> Parts:
    texts = record["answers"].get("text")
    if not texts and (record.get("is_impossible") or texts is not None):
        raise Unusable("not answerable")
    return Parts(
        question=record.get("question"),
        answers=texts,
        answers_key="answers.text",
        id=record.get("id"),
        titles=[record["title"]] if record.get("title") else None,
    )


def _beir(record: dict, where: str) -> Parts:
    """A query of BEIR, whose answer only some of its data sets have, in the metadata."""
    metadata = record.get("metadata") or {}
    answers = _first(metadata, ANSWERS)
    if answers is None:
        raise Unusable("no gold answer (a query of BEIR with evidence alone)")
    return Parts(
        question=record.get("text"),
        answers=answers,
        answers_key="metadata.answer",
        id=record.get("_id"),
        titles=_titles_of_facts(metadata.get("supporting_facts")),
        gold_document_ids=record.get("gold_document_ids", []),
    )


def _igpo(record: dict, where: str) -> Parts:
    extra_info = record.get("extra_info")
    extra_info = extra_info if isinstance(extra_info, dict) else {}
    reward_model = record["reward_model"]
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    truth = truth.get("target") if isinstance(truth, dict) else truth
    # Search-R1's `prompt` also holds instructions; the bare question is in a field of its own.
    text = (
        record.get("question")
        or extra_info.get("question")
        or _last_user_message(record.get("prompt"), where)
    )
    return Parts(
        question=text,
        answers=truth.split(ANSWER_SPLIT) if isinstance(truth, str) else truth,
        answers_key="reward_model.ground_truth",
        id=extra_info.get("index"),
    )


def _last_user_message(prompt: object, where: str) -> str:
    """The bare question. Ignores a system message, because this project has instructions of its own."""
    messages = prompt if isinstance(prompt, list) else []
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, list):  # in parts; only those of text are words
                content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
            if isinstance(content, str) and content:
                return content
    raise InputError(
        f"{where}: `prompt` must be a list of chat messages with a `user` message that holds the question"
    )


def read_named(record: dict, names: FieldNames) -> Parts:
    """Reads a record by the names of one's own; parts without one by the usual names."""
    parts = named_parts(names, record)
    key = names.answers or next((key for key in ANSWERS if key in record), ANSWERS[0])
    answers = parts.get("answers", _first(record, ANSWERS))
    if isinstance(answers, dict):  # SQuAD's and TriviaQA's
        answers = next(
            (answers[inner] for inner in ("text", "value", "aliases") if inner in answers), answers
        )
    metadata = record.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    titles = as_list(parts.get("titles", metadata.get("supporting_titles")))
    return Parts(
        question=parts.get("question", record.get("question")),
        answers=_joined(_as_texts(answers), _as_texts(parts.get("aliases"))),
        answers_key=key,
        id=parts.get("id", _first(record, IDS)),
        titles=[titles] if isinstance(titles, str) else titles,
        hops=_number(parts.get("hops", metadata.get("hops"))),
        metadata=metadata,
    )


def _as_texts(value: Any) -> Any:
    """Numbers as text: a column that a person names as the answer may hold years."""
    if isinstance(value, list):
        return [_as_texts(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if is_whole(value) else str(value)


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return int(value) if is_whole(value) else value


NAMED = "named by `fields`"
READERS: dict[str, Callable[[dict, str], Parts]] = {
    "IGPO/verl": _igpo,
    "TriviaQA": _trivia_qa,
    "SQuAD": _squad,
    "MuSiQue": _musique,
    "2WikiMultihopQA": _plain,
    "HotpotQA": _plain,
    "BEIR": _beir,
    "FlashRAG": _plain,
    "NQ-open": _plain,
    "question and answers": _plain,
    "Question and Answer": lambda record, where: _plain(
        {name.lower(): value for name, value in record.items()}, where
    ),
}
"""Name of a shape -> its reader."""


_SIGNS: tuple[tuple[str, Callable[[dict], object]], ...] = (
    ("IGPO/verl", lambda record: "reward_model" in record),
    (
        "TriviaQA",
        lambda record: (
            isinstance(_first(record, ("answer", "Answer")), dict)
            and ("question" in record or "Question" in record)
        ),
    ),
    ("SQuAD", lambda record: isinstance(record.get("answers"), dict) and "question" in record),
    (
        "MuSiQue",
        lambda record: {"answer_aliases", "question_decomposition", "answerable"} & record.keys(),
    ),
    ("2WikiMultihopQA", lambda record: {"evidences", "supporting_facts"} <= record.keys()),
    ("HotpotQA", lambda record: "supporting_facts" in record),
    ("BEIR", lambda record: "_id" in record and "text" in record and "question" not in record),
    ("FlashRAG", lambda record: "golden_answers" in record),
    (
        "NQ-open",
        lambda record: (
            "question" in record and isinstance(_first(record, ANSWERS), list) and _first(record, IDS) is None
        ),
    ),
    ("question and answers", lambda record: "question" in record),
    ("Question and Answer", lambda record: {"Question", "Answer"} <= record.keys()),
)
"""The first that fits is the shape."""


def read_parts(record: dict, shape: str, names: FieldNames, where: str) -> Parts:
    """Reads a record by its shape, which `shape_of` tells. Raises as `READERS` do."""
    return read_named(record, names) if shape == NAMED else READERS[shape](record, where)
