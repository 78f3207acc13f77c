"""Demonstrations of searching: questions with gold answers and the searches that find them.

A demonstration file is a question file (FlashRAG JSONL) whose `metadata.searches` holds the queries, hop by
hop, so that it also serves as `questions` or `heldout_questions` of an experiment. `make_demonstrations`
invents some over encyclopedic passages.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.data.corpus import Corpus
from envs.data.question import Question
from envs.data.questions import load_questions
from envs.demonstrations.passage_facts import RELATIONS, facts_of
from envs.durable import write_text
from envs.errors import InputError
from envs.retrieval.base import Retriever

_RELATION = {relation.name: relation for relation in RELATIONS}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A question and what to search for, in order, before answering it with the first of its gold answers."""

    question: Question
    searches: list[str]


def load_demonstrations(source: str | Path) -> list[Demonstration]:
    """The demonstrations of a question file.

    Raises:
        InputError: as `load_questions`, and for a question without `metadata.searches`.
    """
    demonstrations = []
    for question in load_questions(source):
        searches = question.metadata.get("searches")
        is_texts = isinstance(searches, list) and all(
            isinstance(text, str) and text.strip() for text in searches
        )
        if not is_texts or not searches:
            raise InputError(
                f"{source}: question {question.id!r} is no demonstration: `metadata.searches` must be a "
                "list of queries"
            )
        demonstrations.append(Demonstration(question, searches))
    return demonstrations


def save_demonstrations(demonstrations: Iterable[Demonstration], path: Path) -> None:
    """Writes the file whole or not at all."""
    lines = [
        {
            "id": one.question.id,
            "question": one.question.text,
            "golden_answers": one.question.golds,
            "metadata": {**one.question.metadata, "searches": one.searches},
        }
        for one in demonstrations
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error


def make_demonstrations(
    corpus: Corpus,
    retriever: Retriever,
    *,
    number: int,
    seed: int = 0,
    top_k: int = 1,
    two_hop_share: float = 0.5,
    excluded: Sequence[Question] = (),
) -> tuple[list[Demonstration], Counter[str]]:
    """At most `number` demonstrations over `corpus`, and how many drafts were dropped for which reason.

    A one-hop question asks for a fact of a passage (`envs.demonstrations.passage_facts`), a two-hop question
    for a fact of another passage that the first one names by its title. A draft is kept if each search brings
    its passage among the first `top_k` and the passage shows the answer. Kinds of questions are drawn evenly,
    so that the commonest facts do not crowd out the rest.

    Args:
        excluded: questions whose `supporting_titles` no demonstration touches, and whose texts none repeats.

    Raises:
        InputError: no draft passed.
    """
    titles = {title for question in excluded for title in question.metadata.get("supporting_titles", [])}
    texts = {question.text for question in excluded}
    rng = np.random.default_rng(seed)
    kept: list[Demonstration] = []
    dropped: Counter[str] = Counter()
    by_hops = _drafts(corpus, rng)
    two_hops = round(number * two_hop_share)
    for hops, wanted in ((1, number - two_hops), (2, two_hops)):
        drafts = _evenly(by_hops[hops])
        while wanted and (draft := next(drafts, None)):
            reason = _reason_to_drop(draft, corpus, retriever, top_k, titles, texts)
            if reason:
                dropped[reason] += 1
            else:
                kept.append(draft)
                wanted -= 1
    if not kept:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
            or "no pattern matches its passages"
        )
        raise InputError(
            f"no demonstration can be made of {corpus.source} ({reasons}): it needs English passages with "
            "titles"
        )
    return [kept[k] for k in rng.permutation(len(kept))], dropped


def _drafts(corpus: Corpus, rng: np.random.Generator) -> dict[int, dict[str, list[Demonstration]]]:
    """Hops to kind of question to its drafts, shuffled. Passages that share a title are left out."""
    count = Counter(document.title for document in corpus)
    documents = {
        document.title: document for document in corpus if document.title and count[document.title] == 1
    }
    facts = {title: facts_of(document) for title, document in documents.items()}
    drafts: dict[int, dict[str, list[Demonstration]]] = {1: defaultdict(list), 2: defaultdict(list)}
    for title in documents:
        for name, value in facts[title].items():
            drafts[1][name].append(_draft([title], [name], value))
            for onward, answer in facts.get(value, {}).items() if _RELATION[name].noun else ():
                if value != title:
                    drafts[2][f"{name}, {onward}"].append(_draft([title, value], [name, onward], answer))
    for kinds in drafts.values():
        for kind, some in kinds.items():
            kinds[kind] = [some[k] for k in rng.permutation(len(some))]
    return drafts


def _draft(titles: list[str], names: list[str], answer: str) -> Demonstration:
    """`names` are the relations that lead from the first of `titles` to the answer."""
    relations = [_RELATION[name] for name in names]
    subject = titles[0]
    for relation in relations[:-1]:
        subject = relation.noun.format(subject)
    metadata = {"type": ", ".join(names), "hops": len(names), "supporting_titles": titles}
    question = Question(
        id=f"{'+'.join(names)}/{titles[0]}".replace(" ", "_"),
        text=relations[-1].question.format(subject),
        golds=[answer],
        hops=len(names),
        metadata=metadata,
    )
    searches = [relation.query.format(title) for relation, title in zip(relations, titles, strict=True)]
    return Demonstration(question, searches)


def _evenly(kinds: dict[str, list[Demonstration]]) -> Iterator[Demonstration]:
    """One of each kind in turn, until all are used up."""
    for place in range(max(map(len, kinds.values()), default=0)):
        yield from (some[place] for some in kinds.values() if place < len(some))


def _reason_to_drop(
    draft: Demonstration, corpus: Corpus, retriever: Retriever, top_k: int, titles: set[str], texts: set[str]
) -> str:
    question = draft.question
    supporting = question.metadata["supporting_titles"]
    if titles & set(supporting) or question.text in texts:
        return "excluded"
    if question.golds[0].casefold() in question.text.casefold():
        return "answer in the question"
    found = retriever.search(draft.searches, top_k)
    for title, hits in zip(supporting, found, strict=True):
        if corpus.ids_with_title(title)[0] not in {hit.document_id for hit in hits}:
            return "passage not found by its search"
    last = found[len(supporting) - 1]
    if not any(question.golds[0] in hit.text for hit in last):
        return "answer not in what was found"
    return ""
