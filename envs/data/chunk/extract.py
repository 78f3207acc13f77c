"""Title and paragraphs of one file: plain text, Markdown, HTML or PDF, as the extra `documents` reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from envs.errors import InputError

EXTRA = "documents"
_OF_THE_PAGE = "[not(ancestor::article or ancestor::main)]"
AROUND_THE_TEXT = ["//nav", "//aside", f"//header{_OF_THE_PAGE}", f"//footer{_OF_THE_PAGE}"]
"""Elements of HTML that are not text. An article's header is: it holds its heading and first words."""


@dataclass(frozen=True)
class Extracted:
    """What a file says."""

    title: str
    paragraphs: list[str]


class NothingToRead(Exception):
    """A file without text that can be had. Its text is the reason, the same for all of a kind."""


def extract(path: Path) -> Extracted:
    """Reads a file by its ending. The title is the document's own, else the file's name.

    Raises:
        NothingToRead: its kind is unknown, it is damaged, or it has no text.
        InputError: a library of the extra `documents` is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise NothingToRead(f"of another kind ({path.suffix or 'no ending'})")
    title, paragraphs = reader(path)
    paragraphs = [text for paragraph in paragraphs if (text := " ".join(paragraph.split()))]
    if not paragraphs:
        raise NothingToRead("without text")
    return Extracted(" ".join((title or "").split()) or path.stem, paragraphs)


def library(name: str) -> Any:
    """Imports a library. Raises InputError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"`igpo data chunk` needs {name}, which can't be imported ({error}): "
            f"pip install 'igpo-rllib[{EXTRA}]'"
        ) from error


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise NothingToRead("not UTF-8") from error


def _plain(path: Path) -> tuple[str, list[str]]:
    return "", re.split(r"\n\s*\n", _text_of(path))


def _markdown(path: Path) -> tuple[str, list[str]]:
    """Text without marks. The first heading is the title, the others begin the text below them."""
    tokens = library("markdown_it").MarkdownIt("commonmark").enable("table").parse(_text_of(path))
    title, paragraphs, heading, is_heading = "", [], "", False
    for token in tokens:
        if token.type == "heading_open":
            is_heading = True
        elif token.type in ("fence", "code_block"):
            paragraphs.append(token.content)
        elif token.type == "inline":
            text = _words(token)
            if not is_heading:
                paragraphs.append(f"{heading}. {text}" if heading else text)
                heading = ""
            elif title:
                heading = text
            else:
                title = text
            is_heading = False
    return title, paragraphs


def _words(token: Any) -> str:
    """The text of a paragraph without emphasis, links and images."""
    shown = {"text": lambda part: part.content, "code_inline": lambda part: part.content}
    blank = {"softbreak", "hardbreak"}
    parts = token.children or []
    return "".join(" " if part.type in blank else shown.get(part.type, lambda _: "")(part) for part in parts)


def _html(path: Path) -> tuple[str, list[str]]:
    """The main text as trafilatura finds it. On a short page it would take the menus for text."""
    found = library("trafilatura").bare_extraction(
        path.read_bytes(),
        favor_recall=True,
        with_metadata=True,
        include_comments=False,
        prune_xpath=AROUND_THE_TEXT,
    )
    if found is None or not found.text:
        raise NothingToRead("without text")
    return found.title or "", found.text.split("\n")


def _pdf(path: Path) -> tuple[str, list[str]]:
    """The text of all pages; words that a line end cut are joined."""
    pypdf = library("pypdf")
    errors = import_module("pypdf.errors")
    try:
        reader = pypdf.PdfReader(path)
        title = reader.metadata.title if reader.metadata else ""
        pages = [page.extract_text() for page in reader.pages]
    except errors.FileNotDecryptedError as error:
        raise NothingToRead("encrypted") from error
    except (errors.PyPdfError, ValueError, KeyError, TypeError) as error:  # what a damaged PDF raises
        raise NothingToRead("damaged") from error
    text = re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", "\n\n".join(pages))
    return title or "", re.split(r"\n\s*\n", text)


LIBRARY_OF = {
    ".md": "markdown_it",
    ".markdown": "markdown_it",
    ".html": "trafilatura",
    ".htm": "trafilatura",
    ".xhtml": "trafilatura",
    ".pdf": "pypdf",
}
READERS: dict[str, Callable[[Path], tuple[str, list[str]]]] = {
    ".txt": _plain,
    ".text": _plain,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
}
