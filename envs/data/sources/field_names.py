"""`fields` and `corpus_fields` of an experiment: what a file of one's own calls the parts of a record."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import Field

from envs.errors import InputError
from envs.settings import Settings


class FieldNames(Settings):
    """`fields`: the names of a question's parts. A dot goes inward (`answer.value`)."""

    question: str | None = Field(None, description="the question's text")
    answers: str | None = Field(None, description="the gold answer, or a list of them")
    aliases: str | None = Field(None, description="further gold answers")
    id: str | None = Field(None, description="the identity; without one it is made by hash")
    titles: str | None = Field(None, description="titles of the evidence documents")
    hops: str | None = Field(None, description="the number of documents that the question needs")


class DocumentFieldNames(Settings):
    """`corpus_fields`: the names of a document's parts."""

    id: str | None = Field(None, description="the identity; without one it is made by hash")
    title: str | None = Field(None, description="the title; without one, a document has none")
    text: str | None = Field(None, description="the text, without which a document is left out")


STANDARD = FieldNames()
"""No names of one's own: records are read by the shape that they have."""
STANDARD_DOCUMENTS = DocumentFieldNames()


@lru_cache
def _given(names: FieldNames | DocumentFieldNames) -> tuple[tuple[str, str], ...]:
    return tuple(names.model_dump(exclude_none=True).items())


def named_parts(names: FieldNames | DocumentFieldNames, record: dict) -> dict[str, Any]:
    """Part -> value, for each part that `names` names and the record has."""
    found = {}
    for part, name in _given(names):
        value: Any = record
        for key in (name,) if name in record else name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[part] = value
    return found


class NamesSeen:
    """Which of the names the records of a source have, so that one that none has is told."""

    def __init__(self, names: FieldNames | DocumentFieldNames):
        self._names = names
        self._never = dict(_given(names))
        self._columns: dict[str, None] = {}
        self.any = False
        """Whether a record has one of them."""

    def look_at(self, record: dict) -> None:
        """Notes the names of a record."""
        if not self._never:
            return
        found = named_parts(self._names, record).keys() | {
            part for part, name in self._never.items() if name in record
        }
        self.any |= bool(found)
        self._never = {part: name for part, name in self._never.items() if part not in found}
        self._columns |= dict.fromkeys(record)

    @property
    def unseen(self) -> list[str]:
        """The names that no record has, where there were records."""
        return list(self._never.values()) if self._columns else []

    def refuse_unseen(self, setting: str, source: object) -> None:
        """Raises InputError where there were records and none has one of the names."""
        if self._never and self._columns:
            part = sorted(self._never)[0]
            raise InputError(
                f"`{setting}.{part}` is {self._never[part]!r}, which no record of {source} has; found "
                f"{', '.join(self._columns)}"
            )
