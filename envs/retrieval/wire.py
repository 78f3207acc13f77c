"""Search-R1's wire format: `POST /retrieve {"queries": [...], "topk": k, "return_scores": true}`.

The answer is `{"result": [[{"document": {"id", "contents"}, "score"}, ...] per query]}`, and without scores a
list of documents per query. Besides `contents` (= `"Title"\\ntext`) servers differ: some send no id, some no
score. JSON is parsed under limits: its depth, and numbers that it has.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import BaseModel, Field, model_validator

from envs.data.corpus import Document, split_contents
from envs.retrieval.base import Hit

MAX_QUERIES = 4096
MAX_TOP_K = 1000
MAX_DEPTH = 64
"""Search-R1's answers are 6 deep, Serper's 5."""
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class RetrieveRequest(BaseModel):
    """A client's request. `topk` None stands for the server's default."""

    queries: list[str] = Field(max_length=MAX_QUERIES)
    topk: int | None = Field(None, ge=1, le=MAX_TOP_K)
    return_scores: bool = False


class WireDocument(BaseModel):
    """A document in the form of the servers."""

    id: str | int | None = None
    contents: str | None = None
    title: str | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _check(self):
        if self.contents is None and self.text is None:
            raise ValueError("a document needs `contents`")
        return self

    @classmethod
    def of(cls, hit: Hit) -> WireDocument:
        """The document of a hit."""
        contents = Document(hit.document_id, hit.title, hit.text).contents
        return cls(id=hit.document_id, contents=contents, title=hit.title, text=hit.text)

    def hit(self, score: float) -> Hit:
        """The hit of this document. An id that is missing is derived from the contents, equal on every
        machine.
        """
        title, text = split_contents(self.contents or "")
        title = title if self.title is None else self.title
        text = text if self.text is None else self.text
        digest = hashlib.sha256(f"{title}\n{text}".encode("utf-8", "replace")).hexdigest()[:16]
        return Hit(digest if self.id is None else str(self.id), title, text, score)


class WireHit(BaseModel):
    """A document with its score."""

    document: WireDocument
    score: float | None = Field(None, allow_inf_nan=False)


class RetrieveAnswer(BaseModel):
    """A server's answer with scores."""

    result: list[list[WireHit]]


def parse_json(content: bytes) -> Any:
    """Parses an answer or a request.

    Raises:
        ValueError: it is no JSON, is nested deeper than `MAX_DEPTH`, or holds NaN or an infinity.
    """
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH:
        _check_depth(content)
    try:
        return json.loads(content, parse_constant=_refuse)
    except RecursionError as error:  # UTF-16 hides its brackets
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH}") from error
    except _NoNumber:
        raise
    except ValueError as error:
        raise ValueError("something else than JSON") from error


class _NoNumber(ValueError):
    pass


def _refuse(name: str) -> None:
    raise _NoNumber(f"{name}, which is no number of JSON")


def _check_depth(content: bytes) -> None:
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(content):
        match found.group()[:1]:
            case b"[" | b"{":
                depth += 1
                if depth > MAX_DEPTH:
                    raise ValueError(f"JSON nested deeper than {MAX_DEPTH}")
            case b"]" | b"}":
                depth -= 1
