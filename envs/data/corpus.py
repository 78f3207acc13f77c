"""Documents to search, read from the JSONL that Search-R1 and FlashRAG share: `id`, `contents` =
`"Title"\\ntext`.

A corpus has an identity, the hash of its content: results differ more by corpus than by algorithm, so every
run logs it, and indexes are cached under it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from envs.data.jsonl import read_jsonl, text_field
from envs.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """One passage. `title` is empty where the corpus gives none; several passages may share a title."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """The corpus form: the quoted title, a line break, the text; the text alone where there is
        no title.
        """
        return f'"{self.title}"\n{self.text}' if self.title else self.text


class Corpus(Sequence[Document]):
    """Documents in file order, with look-up by id and by title.

    Raises:
        InputError: no documents, or two of them share an id.
    """

    def __init__(self, documents: Iterable[Document], source: str = "corpus"):
        self._documents = list(documents)
        self.source = source
        """Where the documents came from, for messages and logs."""
        if not self._documents:
            raise InputError(
                f"{source} holds no documents: a corpus needs one JSON line of `id`, `contents` per passage"
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

    def by_id(self, document_id: str) -> Document:
        """The document of this id; KeyError if there is none."""
        return self._documents[self._index_of_id[document_id]]

    def ids_with_title(self, title: str) -> list[str]:
        """Ids, in corpus order, of all passages of this title: exact, else Unicode- and case-folded."""
        return self._ids_of_title.get(title) or self._ids_of_folded_title.get(_fold(title), [])

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
        return _group_ids((_fold(document.title), document.id) for document in self._documents)


def load_corpus(path: str | Path) -> Corpus:
    """Read a JSONL corpus, one line in memory at a time besides the documents themselves.

    Raises:
        InputError: missing file, malformed line (named by file and line), duplicate id, no documents.
    """
    return Corpus(iter_documents(path), source=str(path))


def iter_documents(path: str | Path) -> Iterator[Document]:
    """Stream the documents of a JSONL corpus; raises as `load_corpus`, except for what needs all documents at
    once.
    """
    for number, record in read_jsonl(Path(path), "corpus"):
        where = f"{path}:{number}"
        document_id = text_field(record, "id", where)
        title, text = split_contents(text_field(record, "contents", where))
        if not title and not text:
            raise InputError(
                f"{where}: document {document_id!r} has empty `contents`: give it text or remove the line"
            )
        yield Document(id=document_id, title=title, text=text)


def split_contents(contents: str) -> tuple[str, str]:
    """(title, text) of `"Title"\\ntext`; contents of a single line are text without a title.

    One pair of quotes around the title is taken off, inner quotes stay: `""Heroes" (song)"` is
    `"Heroes" (song)`.
    """
    title, newline, text = contents.strip().partition("\n")
    if not newline:
        return "", title
    title = title.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1].strip()
    return title, text.strip()


def _fold(title: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", title).casefold().split())


def _group_ids(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for title, document_id in pairs:
        if title:
            groups.setdefault(title, []).append(document_id)
    return groups
