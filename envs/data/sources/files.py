"""Records of any source, one at a time: JSONL, JSON, CSV, TSV, Parquet, a folder, or a hub name.

A text file may be compressed (`.gz`). A JSON file holds an array, or the document that SQuAD or TriviaQA
ships, whose questions are taken out of it.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

from envs.data.jsonl import DAMAGE, OnBad, as_object, parse_json, read_jsonl, require_file
from envs.data.sources.hugging_face import PREFIX, read_folder, read_hub
from envs.data.sources.tables import ReadCell, as_written, open_text, read_csv, read_parquet
from envs.errors import InputError

SPLIT_NAMES = ("train", "dev", "test", "validation")
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
Records = Iterator[tuple[str, int, dict]]
"""(place such as "file:line", row from 0, fields)."""


def read_records(
    source: str | Path, what: str, on_bad: OnBad = None, *, cell: ReadCell = as_written
) -> tuple[str, Records]:
    """Opens a source.

    Args:
        source: a file, a folder, `FOLDER@SPLIT`, or `hf:NAME[:CONFIG][@SPLIT]`.
        what: its purpose, such as "corpus", for error messages.
        on_bad: called with the error of a bad JSONL line or item of a JSON array, after which reading goes
            on; None raises the error.
        cell: makes the values of a CSV.

    Returns:
        The name of its data set, and its records. Only a JSON array is read as a whole.

    Raises:
        InputError: the source is missing or unreadable, or its ending is unknown.
    """
    text = str(source)
    if text.startswith(PREFIX):
        return read_hub(text)
    path, split = folder_and_split(text)
    if path.is_dir():
        return path.absolute().name, read_folder(path, split, text)
    return data_set_name(path), _read_file(path, what, on_bad, cell)


def folder_and_split(source: str | Path) -> tuple[Path, str | None]:
    """Takes `FOLDER@SPLIT` apart; anything that exists as it stands is a path."""
    path = Path(source)
    before, at, split = str(source).rpartition("@")
    if at and not path.exists() and Path(before).is_dir():
        return Path(before), split
    return path, None


def ending_of(path: Path) -> str:
    """The ending that says the format, without `.gz`."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def data_set_name(path: Path) -> str:
    """The file's name, or its folder's name where the file is a split (FlashRAG's NAME/SPLIT.jsonl)."""
    stem = Path(path.stem).stem if path.suffix == ".gz" else path.stem
    return path.absolute().parent.name if stem in SPLIT_NAMES else stem


def _read_file(path: Path, what: str, on_bad: OnBad, cell: ReadCell) -> Records:
    ending = ending_of(path)
    if ending in (".jsonl", ".ndjson", ".json"):
        yield from _read_json(path, what, on_bad)
    elif ending in (".csv", ".tsv"):
        yield from read_csv(path, what, "\t" if ending == ".tsv" else ",", cell)
    elif ending == ".parquet":
        yield from read_parquet(path, what)
    else:
        require_file(path, what)
        raise InputError(
            f"{what} {path} ends in {ending or 'nothing'}, and {', '.join(ENDINGS)} are read (text also "
            "with .gz): rename or convert it"
        )


def _read_json(path: Path, what: str, on_bad: OnBad) -> Records:
    """Lines, or one document over several lines: whatever the file's ending says."""
    require_file(path, what)
    if not _is_one_document(path, what):
        for row, (number, fields) in enumerate(read_jsonl(path, what, on_bad, open_text)):
            yield f"{path}:{number}", row, fields
        return
    document = parse_json(b"".join(_lines(path, what)), path)
    for row, item in enumerate(_items(document, path)):
        where = f"{path} record {row + 1}"
        try:
            record = as_object(item, where)
        except InputError as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        yield where, row, record


def _is_one_document(path: Path, what: str) -> bool:
    """Whether the file is an array, or an object that goes beyond its first line that is not blank."""
    for raw in _lines(path, what):
        line = raw.strip().removeprefix(BOM_UTF8).lstrip()
        if line:
            break
    else:
        return False
    if line.startswith(b"["):
        return True
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return ending_of(path) == ".json"
    return isinstance(first, dict) and _list_within(first) is not None


def _lines(path: Path, what: str) -> Iterator[bytes]:
    try:
        with open_text(path) as file:
            yield from file
    except DAMAGE as error:
        raise InputError(f"{what} {path} can't be read: {error}") from error


def _list_within(document: dict) -> list | None:
    """The records of a document: SQuAD's `data`, TriviaQA's `Data`; None where the object is a record."""
    for key in ("data", "Data"):
        if isinstance(document.get(key), list) and not {"question", "Question", "text"} & document.keys():
            return document[key]
    return None


def _items(document: object, path: Path) -> Iterator[object]:
    if isinstance(document, dict):
        within = _list_within(document)
        document = [document] if within is None else within
    if not isinstance(document, list):
        raise InputError(f"{path}: expected a JSON array of records, found {type(document).__name__}")
    for item in document:
        if isinstance(item, dict) and isinstance(item.get("paragraphs"), list) and "title" in item:
            yield from _squad_article(item)
        else:
            yield item


def _squad_article(article: dict) -> Iterator[object]:
    """SQuAD nests article, paragraph and question; each question becomes a record as on the hub."""
    for paragraph in article["paragraphs"]:
        for asked in paragraph.get("qas", ()) if isinstance(paragraph, dict) else ():
            texts = [answer.get("text") for answer in asked.get("answers") or ()]
            yield asked | {"title": article["title"], "answers": {"text": texts}}
