"""Cuts a document into passages of whole sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from envs.data.chunk.extract import library
from envs.data.unspaced import split_unspaced
from envs.errors import InputError


def sentence_splitter(language: str) -> Callable[[str], list[str]]:
    """pysbd's rules for a language, by its ISO code (`en`, `de`, `zh`); InputError for an unknown one."""
    pysbd = library("pysbd")
    try:
        segmenter = pysbd.Segmenter(language=language, clean=False)
    except ValueError as error:
        raise InputError(f"--language {language}: pysbd has no rules for it: {error}") from error
    return lambda paragraph: [text for sentence in segmenter.segment(paragraph) if (text := sentence.strip())]


def passages(
    paragraphs: Iterable[str], max_words: int, sentences: Callable[[str], list[str]]
) -> Iterator[str]:
    """Yields passages of at most `max_words` words; in scripts without blanks a character counts as a word.

    Sentences stay whole, unless one alone is longer. A passage may go over the end of a paragraph.
    """
    held: list[str] = []
    length = 0
    for paragraph in paragraphs:
        for sentence in (part for whole in sentences(paragraph) for part in _cut(whole, max_words)):
            words = len(split_unspaced(sentence))
            if held and length + words > max_words:
                yield " ".join(held)
                held, length = [], 0
            held.append(sentence)
            length += words
    if held:
        yield " ".join(held)


def _cut(sentence: str, max_words: int) -> Iterator[str]:
    """The sentence, or pieces of it where it is longer than a passage."""
    if len(split_unspaced(sentence)) <= max_words:
        yield sentence
        return
    words = sentence.split()
    if len(words) < len(split_unspaced(sentence)):  # without blanks
        yield from (sentence[at : at + max_words] for at in range(0, len(sentence), max_words))
        return
    yield from (" ".join(words[at : at + max_words]) for at in range(0, len(words), max_words))
