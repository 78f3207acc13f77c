"""A folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from envs.data.sources.files import Records, read_records
from envs.data.sources.tables import read_csv
from envs.errors import InputError

DEFAULT_SPLIT = "train"


def part_of(folder: Path, name: str) -> Path | None:
    """The file of the folder that holds `queries` or `corpus`; None where there is none."""
    return next(
        (path for ending in (".jsonl", ".jsonl.gz") if (path := folder / f"{name}{ending}").is_file()), None
    )


def read_queries(folder: Path, split: str | None, source: str) -> Records:
    """Yields the queries that the split judges, with the ids of their evidence as `gold_document_ids`.

    Args:
        folder: the data set's folder.
        split: name of a file of `qrels`; None: `train`, or the only one there is.
        source: what a person typed, for messages.

    Raises:
        InputError: there is no such split, or a file is damaged.
    """
    judged = _judgements(folder, split, source)
    queries = part_of(folder, "queries")
    assert queries is not None, "the caller has looked"
    _, records = read_records(queries, "question file")
    for where, row, fields in records:
        query = str(fields.get("_id"))
        if judged is None:
            yield where, row, fields
        elif query in judged:
            yield where, row, fields | {"gold_document_ids": judged[query]}


def _judgements(folder: Path, split: str | None, source: str) -> dict[str, list[str]] | None:
    """Query -> documents with a positive score; None where the folder judges nothing."""
    files = {path.stem: path for path in sorted((folder / "qrels").glob("*.tsv"))}
    if not files and split is None:
        return None
    chosen = split or (next(iter(files)) if len(files) == 1 else DEFAULT_SPLIT)
    if chosen not in files:
        known = ", ".join(files) or "none"
        raise InputError(f"{source} has no split {chosen!r} in its qrels; it has {known}: add @SPLIT")
    judged: dict[str, list[str]] = {}
    for query, document, score in _rows(files[chosen]):
        if score > 0:
            judged.setdefault(query, []).append(document)
    return judged


def _rows(path: Path) -> Iterator[tuple[str, str, float]]:
    for where, _, fields in read_csv(path, "judgements", "\t"):
        try:
            yield fields["query-id"], fields["corpus-id"], float(fields["score"])
        except (KeyError, ValueError) as error:
            raise InputError(f"{where}: expected `query-id`, `corpus-id` and a `score`: {error!r}") from error
