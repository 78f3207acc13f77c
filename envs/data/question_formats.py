"""Reads question records in the formats that search-agent projects share.

Formats:

- FlashRAG: `id`, `question`, `golden_answers` (or `answers`, `answer`), `metadata`.
- IGPO/verl: `prompt` (chat messages), `reward_model.ground_truth` (aliases joined by `<|answer_split|>`, or
  Search-R1's `{"target": [...]}`), `data_source`, `extra_info.index`. A record with `reward_model` has this
  format.

Sources: a `.jsonl` file, a `.parquet` file (IGPO/verl), or a Hugging Face data set,
    `hf:NAME[:CONFIG][@SPLIT]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from envs.data.jsonl import read_jsonl, require_file, require_unicode, text_field
from envs.data.question import Question
from envs.errors import InputError
from envs.git_lfs import refuse_pointer

ANSWER_SPLIT = "<|answer_split|>"
"""Separates aliases in the IGPO form (official IGPO data)."""
_SPLIT_NAMES = ("train", "dev", "test", "validation")
_HUGGING_FACE = re.compile(r"hf:(?P<name>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<split>[^:@]+))?")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a source, before it is read as a question.

    Attributes:
        where: the place, such as "file:line".
        row: number of the record, from 0.
        fields: its fields.
        data_source: name of its data set.
    """

    where: str
    row: int
    fields: dict
    data_source: str

    def question(self) -> Question:
        """Reads the question.

        Raises:
            InputError: the record is malformed; the message names `where`.
        """
        return _question_of_igpo(self) if "reward_model" in self.fields else _question_of_flashrag(self)


def iter_records(
    source: str | Path, on_bad: Callable[[InputError], object] | None = None
) -> Iterator[Record]:
    """Streams the records of a source.

    Args:
        source: a file, or `hf:NAME[:CONFIG][@SPLIT]`; only one record at a time is in memory.
        on_bad: called with the error of a bad JSONL line, after which reading goes on; None raises the error.

    Raises:
        InputError: the file or data set is missing or unreadable, the suffix is unknown, or, without
            `on_bad`, a line is not a JSON object.
    """
    if str(source).startswith("hf:"):
        return _read_hugging_face(str(source))
    path = Path(source)
    if path.suffix == ".jsonl":
        return _read_jsonl(path, on_bad)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    require_file(path, "question file")
    raise InputError(
        f"question file {path} is neither .jsonl (FlashRAG) nor .parquet (IGPO/verl): rename or convert it"
    )


def _data_source(path: Path) -> str:
    """The file's name, or its folder's name where the file is a split (FlashRAG's NAME/SPLIT.jsonl)."""
    return path.absolute().parent.name if path.stem in _SPLIT_NAMES else path.stem


def _read_jsonl(path: Path, on_bad: Callable[[InputError], object] | None) -> Iterator[Record]:
    for row, (number, fields) in enumerate(read_jsonl(path, "question file", on_bad)):
        yield Record(f"{path}:{number}", row, fields, _data_source(path))


def _read_parquet(path: Path) -> Iterator[Record]:
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
            raise InputError(
                f"{path} lacks the column(s) {', '.join(sorted(lacking))}; found {', '.join(sorted(columns))}"
            )
        wanted = sorted(columns & {"data_source", "prompt", "question", "reward_model", "extra_info"})
        row = 0
        for batch in file.iter_batches(columns=wanted):
            for fields in batch.to_pylist():
                yield Record(f"{path} row {row}", row, fields, "")
                row += 1


def _read_hugging_face(source: str) -> Iterator[Record]:
    """Streams a data set, so only the records that are read are downloaded.

    NAME may be a local folder of data files: `hf:./folder@validation`.
    """
    match = _HUGGING_FACE.fullmatch(source)
    if match is None:
        raise InputError(
            f"{source} must have the form hf:NAME[:CONFIG][@SPLIT], for instance hf:owner/name:nq@dev"
        )
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{source} needs the package datasets: install the extra `hf` of igpo-rllib"
        ) from error
    name, config, split = match["name"], match["config"], match["split"] or "train"
    for path in Path(name).rglob("*") if Path(name).is_dir() else ():
        if path.is_file():
            refuse_pointer(path, source)
    try:
        for row, fields in enumerate(datasets.load_dataset(name, config, split=split, streaming=True)):
            yield Record(f"{source} row {row}", row, dict(fields), config or Path(name).name)
    except Exception as error:  # the library raises many kinds for what is a wrong name, split or no network
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"{source} can't be loaded: {type(error).__name__}: {reason}") from error


def _question_of_flashrag(record: Record) -> Question:
    fields, where = record.fields, record.where
    question_id = text_field(fields, "id", where)
    metadata = fields.get("metadata") or {
        key: fields[key] for key in ("supporting_facts", "type", "level") if key in fields
    }
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: `metadata` must be an object, found {type(metadata).__name__}")
    titles = _supporting_titles(metadata, where)
    if titles:
        metadata = metadata | {"supporting_titles": titles}
    answers = next(
        (key for key in ("golden_answers", "answers", "answer") if key in fields), "golden_answers"
    )
    return Question(
        id=question_id,
        text=_question_text(text_field(fields, "question", where), where),
        golds=_golds(fields.get(answers), question_id, where, answers),
        data_source=record.data_source,
        hops=_hops(metadata, where) or len(titles) or None,
        metadata=metadata,
    )


def _question_of_igpo(record: Record) -> Question:
    fields, where = record.fields, record.where
    data_source = (
        text_field(fields, "data_source", where) if fields.get("data_source") else record.data_source
    )
    extra_info = fields.get("extra_info")
    extra_info = extra_info if isinstance(extra_info, dict) else {}
    index = extra_info.get("index")
    # An integer index counts within its data source only (verl's preprocessing), a text index is an
    # identifier.
    if not (isinstance(index, str) and index):
        index = f"{data_source or 'row'}-{record.row if index in (None, '') else index}"
    reward_model = fields["reward_model"]
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    truth = truth.get("target") if isinstance(truth, dict) else truth
    aliases = truth.split(ANSWER_SPLIT) if isinstance(truth, str) else truth
    # Search-R1's `prompt` also holds instructions; the bare question is in a field of its own.
    text = (
        fields.get("question")
        or extra_info.get("question")
        or _last_user_message(fields.get("prompt"), where)
    )
    return Question(
        id=index,
        text=_question_text(text, where),
        golds=_golds(aliases, index, where, "reward_model.ground_truth"),
        data_source=data_source,
    )


def _last_user_message(prompt: object, where: str) -> str:
    """The bare question. Ignores a system message, because this project has instructions of its own."""
    messages = prompt if isinstance(prompt, list) else []
    for message in reversed(messages):
        if (
            isinstance(message, dict)
            and message.get("role") == "user"
            and isinstance(message.get("content"), str)
        ):
            return message["content"]
    raise InputError(
        f"{where}: `prompt` must be a list of chat messages with a `user` message that holds the question"
    )


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
        raise InputError(
            f"{where}: `{key}` of question {question_id!r} must be a list of texts, found {value!r:.80}"
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


def _supporting_titles(metadata: dict, where: str) -> list[str]:
    """Distinct titles of the evidence: `supporting_titles`, or FlashRAG's own `supporting_facts.title`."""
    titles = metadata.get("supporting_titles")
    if titles is None and isinstance(metadata.get("supporting_facts"), dict):
        titles = metadata["supporting_facts"].get("title")
    if titles is None:
        return []
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise InputError(
            f"{where}: `metadata.supporting_titles` must be a list of titles, found {titles!r:.80}"
        )
    return list(dict.fromkeys(titles))


def _hops(metadata: dict, where: str) -> int | None:
    hops = metadata.get("hops")
    if hops is None:
        return None
    if not isinstance(hops, int) or isinstance(hops, bool) or hops < 1:
        raise InputError(f"{where}: `metadata.hops` must be a whole number from 1, found {hops!r:.80}")
    return hops
