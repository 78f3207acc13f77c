"""Makes demonstrations from a corpus of encyclopedic passages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from envs.data.corpus import Corpus, folded_title
from envs.data.question import Question
from envs.data.questions import folded
from envs.demonstrations.demonstration import Demonstration
from envs.demonstrations.passage_facts import RELATIONS, facts_of
from envs.errors import InputError
from envs.retrieval.base import Retriever

_RELATION = {relation.name: relation for relation in RELATIONS}


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
    """Makes demonstrations over `corpus`.

    A one-hop question asks for a fact of a passage (`envs.demonstrations.passage_facts`). A two-hop question
    asks for a fact of another passage, whose title the first passage names. A draft is kept if each search
    finds its passage among the first `top_k` hits and the last search shows the answer. Kinds of questions
    are drawn evenly, so the commonest facts do not crowd out the rest.

    Args:
        corpus: encyclopedic passages with titles.
        retriever: searches the same corpus.
        number: limit on the demonstrations.
        seed: decides the choice and the order.
        top_k: hits per search.
        two_hop_share: share of two-hop questions, in [0, 1].
        excluded: questions to stay clear of: no demonstration uses their `supporting_titles` or repeats their
            texts.

    Returns:
        The demonstrations, and the number of dropped drafts by reason.

    Raises:
        InputError: no draft passed.
    """
    titles = {
        folded_title(title)
        for question in excluded
        for title in question.metadata.get("supporting_titles", [])
    }
    texts = {folded(question.text) for question in excluded}
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
    """Hops to kind of question to shuffled drafts. Leaves out passages that share a title."""
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
    """Returns a draft of a question. `names` are the relations that lead from the first of `titles` to the
    answer.

    The titles (Film A, Person B) and the relations (director, birthplace) give "Where was the director of
    Film A born?", with the searches "Film A director" and "Person B born".
    """
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
    """Yields one draft of each kind in turn, until all are used up."""
    for place in range(max(map(len, kinds.values()), default=0)):
        yield from (some[place] for some in kinds.values() if place < len(some))


def _reason_to_drop(
    draft: Demonstration, corpus: Corpus, retriever: Retriever, top_k: int, titles: set[str], texts: set[str]
) -> str:
    question = draft.question
    supporting = question.metadata["supporting_titles"]
    if titles & set(map(folded_title, supporting)) or folded(question.text) in texts:
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
