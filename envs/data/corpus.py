"""A corpus of documents. Its own form is that of Search-R1 and FlashRAG: `id`, `contents` = `"Title"\\ntext`.

The hash of its content identifies a corpus. Results depend more on the corpus than on the algorithm, so every
run logs the hash, and indexes are cached under it.
"""

from __future__ import annotations

import hashlib
import html
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from envs.data.jsonl import text_field
from envs.data.sources.beir import part_of
from envs.data.sources.field_names import STANDARD_DOCUMENTS, DocumentFieldNames, NamesSeen, named_parts
from envs.data.sources.files import read_records
from envs.data.sources.tables import whole_number
from envs.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """One passage. `title` is empty where the corpus gives none; several passages may share a title."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """The document as a corpus line holds it: `"Title"\\ntext`, or the text alone without a title."""
        return f'"{self.title}"\n{self.text}' if self.title else self.text


class Corpus(Sequence[Document]):
    """Documents in file order, with look-up by id and by title.

    Args:
        documents: the documents.
        source: the origin of the documents, for messages and logs.

    Raises:
        InputError: there are no documents, or two of them share an id.
    """

    def __init__(self, documents: Iterable[Document], source: str = "corpus"):
        self._documents = list(documents)
        self.source = source
        if not self._documents:
            raise InputError(
                f"{source} holds no documents: a corpus needs one record of `id`, `contents` per passage"
            )
        self._index_of_id: dict[str, int] = {}
        for index, document in enumerate(self._documents):
            first = self._index_of_id.setdefault(document.id, index)
            if first != index:
                raise InputError(
                    f"{source}: documents {first + 1} and {index + 1} share the id {document.id!r}: ids "
                    "must be unique"
                )

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, index):
        return self._documents[index]

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    @property
    def ids(self) -> Collection[str]:
        """The ids of all documents."""
        return self._index_of_id.keys()

    def by_id(self, document_id: str) -> Document:
        """The document with this id.

        Raises:
            KeyError: there is none.
        """
        return self._documents[self._index_of_id[document_id]]

    def ids_with_title(self, title: str) -> list[str]:
        """Ids of the passages with this title, in corpus order; failing an exact match, by `folded_title`."""
        return self._ids_of_title.get(title) or self._ids_of_folded_title.get(folded_title(title), [])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) over id, title and text of every document in order: the same on every machine."""
        digest = hashlib.sha256()
        for document in self._documents:
            for value in (document.id, document.title, document.text):
                data = value.encode()
                digest.update(len(data).to_bytes(8, "little"))
                digest.update(data)
        return digest.hexdigest()

    @cached_property
    def _ids_of_title(self) -> dict[str, list[str]]:
        return _group_ids((document.title, document.id) for document in self._documents)

    @cached_property
    def _ids_of_folded_title(self) -> dict[str, list[str]]:
        return _group_ids((folded_title(document.title), document.id) for document in self._documents)


def load_corpus(path: str | Path, names: DocumentFieldNames = STANDARD_DOCUMENTS) -> Corpus:
    """Reads a corpus, document by document. A warning counts what is left out, by reason.

    Args:
        path: a file (JSONL, JSON, CSV, TSV, Parquet; text also with .gz), a folder (BEIR's, a saved data set,
            data files), or `hf:NAME[:CONFIG][@SPLIT]`.
        names: what it calls the parts of a document, where not by the usual names.

    Raises:
        InputError: the file is missing or has no documents, a record is malformed (the message names file and
            line), an id occurs twice, or no record has a name of `names`.
    """
    left_out: Counter[str] = Counter()
    corpus = Corpus(iter_documents(path, names, left_out), source=str(path))
    for reason, count in left_out.items():
        logger.warning("left out of %s: %s documents, %s", path, f"{count:,}", reason)
    return corpus


def iter_documents(
    path: str | Path,
    names: DocumentFieldNames = STANDARD_DOCUMENTS,
    left_out: Counter[str] | None = None,
) -> Iterator[Document]:
    """Streams the documents of a corpus.

    Args:
        path: as of `load_corpus`.
        names: likewise.
        left_out: counts by reason the repetitions of a document without an id.

    Raises:
        InputError: as `load_corpus`, but an empty file and repeated ids are not noticed.
    """
    folder = Path(path)
    if folder.is_dir() and (documents := part_of(folder, "corpus")) is not None:
        path = documents
    ids = {*IDS, names.id}
    _, records = read_records(
        path, "corpus", cell=lambda column, text: whole_number(text) if column in ids else text
    )
    made: set[str] = set()
    seen = NamesSeen(names)
    for where, _, record in records:
        seen.look_at(record)
        document_id, title, text = _parts(record, names, where)
        if not title and not text:
            raise InputError(
                f"{where}: document {document_id!r} has empty `contents`: give it text or remove the line"
            )
        if not document_id:
            document_id = _hashed(title, text)
            if document_id in made:
                if left_out is not None:
                    left_out[REPEATED] += 1
                continue
            made.add(document_id)
        yield Document(id=document_id, title=title, text=text)
    seen.refuse_unseen("corpus_fields", path)


IDS = ("id", "_id", "docid", "doc_id", "pid", "passage_id")
TEXTS = ("text", "passage", "paragraph_text", "body", "content")
FIELDS_ADVICE = "`corpus_fields: {id: NAME, title: NAME, text: NAME}`"
"""What an experiment file says of a corpus of one's own."""
REPEATED = "repeated (the same title and text, without an id)"


def _parts(record: dict, names: DocumentFieldNames, where: str) -> tuple[str, str, str]:
    """(id, or empty; title; text) of a record in one of the usual shapes, or by names of one's own."""
    named = named_parts(names, record)
    key = next((key for key in IDS if record.get(key) not in (None, "")), None)
    if "id" in named:
        document_id = text_field(named, "id", where)
    else:
        document_id = "" if key is None else text_field(record, key, where)
    if "text" not in named and "contents" in record:
        return document_id, *split_contents(text_field(record, "contents", where))
    if "text" not in named:
        body = next((name for name in TEXTS if name in record), None)
        if body is None:
            found = ", ".join(map(repr, record)) or "nothing"
            raise InputError(
                f"{where}: no `contents` or `text` (found {found}): say which is which with {FIELDS_ADVICE}"
            )
        named["text"] = record[body]
    title = named.get("title", record.get("title") or "")
    return (
        document_id,
        text_field({"title": title}, "title", where).strip(),
        text_field(named, "text", where).strip(),
    )


def _hashed(title: str, text: str) -> str:
    """An id from the content: the same in every file and order."""
    digest = hashlib.sha256(json.dumps([title, text]).encode()).hexdigest()
    return f"hash-{digest[:16]}"


def split_contents(contents: str) -> tuple[str, str]:
    """Splits `"Title"\\ntext` into (title, text). Contents of a single line are text without a title.

    Removes one pair of quotes around the title and keeps inner ones: `""Heroes" (song)"` becomes
    `"Heroes" (song)`.
    """
    title, newline, text = contents.strip().partition("\n")
    if not newline:
        return "", title
    title = title.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1].strip()
    return title, text.strip()


def folded_title(title: str) -> str:
    """The title without differences of case, white space, Unicode form and HTML entities (`&amp;` is `&`).

    Titles are matched by it. Documents keep the title that they have, so the corpus's hash stays.
    """
    while (plain := html.unescape(title)) != title:
        title = plain
    return " ".join(unicodedata.normalize("NFKC", title).casefold().split())


def _group_ids(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for title, document_id in pairs:
        if title:
            groups.setdefault(title, []).append(document_id)
    return groups
