"""The questions that come up about every run, as `queries/NAME.sql` files whose leading comment states the
question.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from pipeline.analysis.locate import AnalysisError


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A shipped query. `question` is its first comment line, `notes` the others: how to read the columns."""

    name: str
    question: str
    notes: str
    sql: str


@cache
def named_queries() -> dict[str, NamedQuery]:
    """Name to query, in alphabetical order."""
    folder = files("pipeline.analysis") / "queries"
    texts = {
        entry.name.removesuffix(".sql"): entry.read_text()
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }
    return {name: _parse(name, texts[name]) for name in sorted(texts)}


def named_query(name: str) -> NamedQuery:
    """Raises AnalysisError naming the nearest query if there is none of this name."""
    queries = named_queries()
    if name not in queries:
        near = get_close_matches(name, queries, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`igpo sql --list` lists them"
        raise AnalysisError(f"no query is named {name!r}; {hint}")
    return queries[name]


def _parse(name: str, text: str) -> NamedQuery:
    lines = text.splitlines()
    comment = []
    for line in lines:
        if not line.startswith("--"):
            break
        comment.append(line.removeprefix("--").strip())
    if not comment:
        raise ValueError(f"{name}.sql must start with a comment that says the question it answers")
    return NamedQuery(name, comment[0], " ".join(comment[1:]), text)
