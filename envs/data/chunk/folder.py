"""Makes a corpus of a folder of documents, or of one, and counts what is left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from envs.data.chunk.extract import LIBRARY_OF, NothingToRead, extract, library
from envs.data.chunk.passages import passages, sentence_splitter
from envs.data.corpus import Document
from envs.durable import write_file
from envs.errors import InputError

REPEATED = "passages repeated (the same title and text)"


@dataclass
class Made:
    """What came of the documents."""

    documents: int = 0
    passages: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason to number of files, or of passages where the reason says so."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason to the first file that it holds of."""


def files_of(source: Path) -> list[Path]:
    """The file itself, or all files below the folder by name; hidden ones in it are not documents.

    Raises:
        InputError: there is no such file or folder, or nothing in it.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source} does not exist: give a document, or the folder that holds them")
    found = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not found:
        raise InputError(f"{source} holds no files")
    return found


def chunk(
    source: Path,
    out: Path,
    *,
    max_words: int = 100,
    language: str = "en",
    on_file: Callable[[], object] = lambda: None,
) -> Made:
    """Writes the passages of all documents of `source` to `out`, as JSONL of `id` and `contents`.

    An id is the file's path in the folder and the passage's number: `guide/intro.md#3`. The file appears
    whole or not at all.

    Args:
        source: a document, or a folder with documents in it and in the folders below.
        out: the corpus to write.
        max_words: the longest passage.
        language: whose rules end a sentence (ISO code).
        on_file: called after each file.

    Raises:
        InputError: a library is not installed, or no file has text.
    """
    files, made = files_of(source), Made()
    folder = source.parent if source.is_file() else source
    sentences = sentence_splitter(language)
    for ending in sorted({path.suffix.lower() for path in files} & LIBRARY_OF.keys()):
        library(LIBRARY_OF[ending])  # before the first file is read

    def fill(file: BinaryIO) -> None:
        for document in _documents(files, folder, made, max_words, sentences, on_file):
            line = {"id": document.id, "contents": document.contents}
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if not made.passages:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in made.left_out.most_common())
            raise InputError(f"{source} has no file with text: {reasons}")

    write_file(out, fill)
    return made


def _documents(
    files: list[Path],
    folder: Path,
    made: Made,
    max_words: int,
    sentences: Callable[[str], list[str]],
    on_file: Callable[[], object],
) -> Iterator[Document]:
    seen: set[int] = set()
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            found = extract(path)
        except NothingToRead as reason:
            made.left_out[f"files {reason}"] += 1
            made.examples.setdefault(f"files {reason}", name)
            on_file()
            continue
        made.documents += 1
        for number, text in enumerate(passages(found.paragraphs, max_words, sentences)):
            digest = hash((found.title, text))
            if digest in seen:
                made.left_out[REPEATED] += 1
                made.examples.setdefault(REPEATED, f"{name}#{number}")
                continue
            seen.add(digest)
            made.passages += 1
            yield Document(f"{name}#{number}", found.title, text)
        on_file()
