"""Measures the share of supporting evidence that each retriever finds, with the question as the query.

    python -m benchmarks.retrieval.recall --questions questions.jsonl --passages passages.jsonl \\
        --encoder ENCODER_FOLDER

Recall@k of one question: the share of its supporting titles (`metadata.supporting_titles`) with a passage
among the first k.
"""

from __future__ import annotations

import argparse
import time

from envs.data.corpus import Corpus, load_corpus
from envs.data.question import Question
from envs.data.questions import load_questions, resolve_gold_documents
from envs.retrieval.base import Retriever
from envs.retrieval.build import build_retriever
from envs.retrieval.config import DenseSettings, RetrieverSettings


def title_recall(retriever: Retriever, questions: list[Question], corpus: Corpus, top_k: int) -> float:
    """Computes the mean recall@k of supporting titles over `questions`, each of which has some."""
    found = retriever.search([question.text for question in questions], top_k)
    shares = []
    for question, hits in zip(questions, found, strict=True):
        wanted = {corpus.by_id(document_id).title for document_id in question.gold_document_ids}
        shares.append(len(wanted & {hit.title for hit in hits}) / len(wanted))
    return sum(shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", required=True, help="FlashRAG JSONL with supporting titles")
    parser.add_argument("--passages", required=True, help="JSONL of id, contents")
    parser.add_argument("--encoder", help="folder or hub name; without it only BM25 is measured")
    parser.add_argument("--query-prefix", default="")
    parser.add_argument("--passage-prefix", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--top-k", type=int, default=5)
    args = parser.parse_args()

    corpus = load_corpus(args.passages)
    questions = [
        q for q in resolve_gold_documents(load_questions(args.questions), corpus) if q.gold_document_ids
    ]
    settings = [RetrieverSettings(kind="bm25")]
    if args.encoder:
        dense = DenseSettings(
            encoder=args.encoder,
            query_prefix=args.query_prefix,
            passage_prefix=args.passage_prefix,
            device=args.device,
        )
        settings += [
            RetrieverSettings(kind="dense", dense=dense),
            RetrieverSettings(kind="hybrid", dense=dense),
        ]
    print(f"{len(questions)} questions with known evidence, {len(corpus):,} passages")
    for setting in settings:
        started = time.perf_counter()
        retriever = build_retriever(setting, corpus)
        built = time.perf_counter()
        recall = title_recall(retriever, questions, corpus, args.top_k)
        seconds = time.perf_counter() - built
        speed = f"ready in {built - started:.1f} s, {len(questions)} queries in {seconds * 1e3:.0f} ms"
        print(f"{setting.kind:8} recall@{args.top_k} {recall:.3f}   {speed}", flush=True)


if __name__ == "__main__":
    main()
