"""Extracts facts from encyclopedic passages by patterns: who directed a film, where someone was born.

The facts are few and certain, because a pattern skips everything doubtful. The answer is always a piece of
the passage, so a policy that finds the passage can copy it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.data.corpus import Document

_WORD = r"(?:(?:[A-Z]|St|Dr|Mt)\.|[A-ZÀ-ÖØ-Þ][\w’'-]*\w(?<!\bSt)(?<!\bDr)(?<!\bMt))"
_NAME = (
    rf"{_WORD}(?: (?:{_WORD}|de|del|di|van|von|bin|al)){{0,4}}"
    r"(?<!\.)(?<! (?:de|di|al))(?<! (?:del|van|von|bin))"
)
_PERSON = rf"(?P<value>{_WORD} (?:(?:{_WORD}|de|del|di|van|von|bin|al) ){{0,3}}{_WORD}(?<!\.))"
_DATE = r"\d{1,2} [A-Z][a-z]+ \d{4}|[A-Z][a-z]+ \d{1,2}, \d{4}"
_END = r"(?=[.,;:)]|$| (?:and|in|on|who|which|that|with|from|for|as|is|was|starring|based)\b)"


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: its name.
        pattern: finds the fact in a passage's text; the group `value` is the answer.
        question: asks for the fact; ``{}`` marks the subject.
        query: the search that finds the passage; ``{}`` marks its title.
        noun: names the answer by the subject, for the next hop; empty where the answer leads to no other
            passage.
        subject: must match the text too; it restricts the kind of passage.
    """

    name: str
    pattern: re.Pattern[str]
    question: str
    query: str
    noun: str = ""
    subject: re.Pattern[str] = re.compile("")


_FILM = re.compile(r"^.{0,160}?\bis an? .{0,60}?\bfilm\b")
_LIVED = re.compile(rf"^.{{0,120}}?\((?:[^()]*?\b)?(?:{_DATE})")
RELATIONS = (
    Relation(
        "director",
        re.compile(rf"\bdirected by {_PERSON}{_END}"),
        "Who directed {}?",
        "{} director",
        "the director of {}",
        _FILM,
    ),
    Relation(
        "father",
        re.compile(rf"\b(?:son|daughter) of [a-z ]{{0,30}}{_PERSON}{_END}"),
        "Who was the father of {}?",
        "{} father",
        "the father of {}",
        _LIVED,
    ),
    Relation(
        "year",
        re.compile(r"^.{0,120}?\bis an? (?P<value>\d{4}) .{0,60}?\b(?:film|album|novel|song|single|game)\b"),
        "In which year was {} released?",
        "{} year",
    ),
    Relation(
        "birth date",
        re.compile(rf"^.{{0,120}}?\((?: ?[Bb]orn| ?b\.)?[^()\d]{{0,40}}?(?P<value>{_DATE})"),
        "When was {} born?",
        "{} born",
    ),
    Relation(
        "death date",
        re.compile(rf"^.{{0,120}}?\([^()]*?(?:{_DATE})[^()]{{0,60}}?[–-] ?[^()]{{0,40}}?(?P<value>{_DATE})"),
        "When did {} die?",
        "{} died",
    ),
    Relation(
        "birthplace",
        re.compile(
            rf"(?:\b[Bb]orn (?:(?:{_DATE}),? )?in|\bwas born (?:on [^.]{{5,20}} )?in) (?P<value>{_NAME})"
            r"(?=[.,;:)]|$| (?:and|to|on|where)\b)"
        ),
        "Where was {} born?",
        "{} born",
        subject=_LIVED,
    ),
    Relation(
        "nationality",
        re.compile(r"\) ?(?:is|was) an? (?P<value>[A-Z][a-z]+(?:an|sh|ese|ch|rd|ek|ss)) [a-z]"),
        "What is the nationality of {}?",
        "{} nationality",
        subject=_LIVED,
    ),
)


def facts_of(document: Document) -> dict[str, str]:
    """Returns the facts that `document` states about its title: relation name to answer."""
    facts = {}
    for relation in RELATIONS:
        match = relation.pattern.search(document.text)
        if match and relation.subject.search(document.text) and match["value"] not in document.title:
            facts[relation.name] = match["value"]
    return facts
