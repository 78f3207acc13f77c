"""Makes what a run reads out of the files that were fetched: questions as JSONL, and the corpus's index."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from envs.data.corpus import load_corpus
from envs.data.jsonl import write_jsonl
from envs.data.question import Question
from envs.data.questions import load_questions, without
from envs.durable import write_text
from envs.errors import InputError
from envs.retrieval.build import build_retriever
from envs.retrieval.config import RetrieverSettings
from pipeline.paper.fetch import record_of
from pipeline.paper.manifest import PublicFile

PREPARED = "prepared.json"


def prepare_questions(file: PublicFile, folder: Path) -> str | None:
    """Writes a file's questions as `file.questions`, with the data set of each.

    Returns:
        What was written, in words; None where it was written before, from the same files.

    Raises:
        InputError: a record is no question, or the numbers are not the manifest's.
    """
    assert file.questions is not None
    seen = record_of(folder)
    made_of = {name: seen[name]["sha256"] for name in filter(None, (file.name, file.without))}
    prepared = folder / PREPARED
    known = json.loads(prepared.read_text()) if prepared.is_file() else {}
    target = folder / file.questions
    if target.is_file() and known.get(file.questions) == made_of:
        return None
    questions = load_questions(folder / file.name)
    if file.without:
        questions = without(questions, load_questions(folder / file.without))
    counts = Counter(question.data_source for question in questions)
    if file.counts and counts != file.counts:
        raise InputError(
            f"{folder / file.name} holds {_told(counts)} questions, not {_told(Counter(file.counts))}: it is "
            "another file than the manifest describes"
        )
    write_jsonl(target, map(_record, questions))
    write_text(prepared, json.dumps(known | {file.questions: made_of}, indent=1) + "\n")
    return f"{target}: {len(questions):,} questions: {_told(counts)}"


def build_index(file: PublicFile, folder: Path) -> str:
    """Reads the corpus and builds its BM25 index in the cache, or opens the one that is there.

    Returns:
        What there is now, in words.
    """
    documents = load_corpus(folder / file.name)
    build_retriever(RetrieverSettings(kind="bm25"), documents)
    return f"{folder / file.name}: {len(documents):,} passages, index of BM25, hash {documents.content_hash}"


def _record(question: Question) -> dict:
    """In the IGPO shape, the one that names the data set of each question (docs/your_data.md)."""
    return {
        "data_source": question.data_source,
        "prompt": [{"role": "user", "content": question.text}],
        "reward_model": {"ground_truth": question.golds},
        "extra_info": {"index": question.id},
    }


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
