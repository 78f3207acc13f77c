"""Measures how hard a world is: accuracy without searching, by searching well, and by searching at random.

A world suits training if closed-book accuracy is near zero (answers must be found), an expert is always right
(they can be found), and a random searcher is not (the queries matter).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from envs.data.answer_metrics import em_squad
from envs.data.corpus import Document
from envs.data.question import Question
from envs.world.ideal_reader import belief_path
from envs.world.words import ATTRIBUTES
from envs.world.world import World

Search = Callable[[str], Document]
"""Returns the best document for a query."""


@dataclass(frozen=True)
class Difficulty:
    """EM (SQuAD) of the players on the held-out questions, and the belief path of an ideal reader."""

    questions: Counter[str]
    """Number of held-out questions by kind."""
    closed_book: float
    """Always gives the commonest training answer to the same kind of question."""
    expert: float
    """Searches for each hop's entity by name and reads the fact in the document that it gets."""
    random_searcher: float
    """Searches `max_searches` times for a random fact of somebody it has read about, then gives a value that
    it saw."""
    as_told: float | None
    """Takes the hops in the order that the question tells them, with as many searches as the expert; None
    where no question is told out of order."""
    without_plan: float | None
    """Takes the first hop that it can, without looking where it leads; otherwise as `as_told`."""
    belief_by_hops: dict[int, list[float]]
    """Hops of a chain question to mean belief in the gold answer after 0, 1, ... gold documents."""


def difficulty(world: World, search: Search, *, max_searches: int = 5, seed: int = 0) -> Difficulty:
    """Lets the players answer all held-out questions of `world`.

    Args:
        world: the world.
        search: returns the best document for a query.
        max_searches: searches of the random searcher per question.
        seed: seed of the random searcher.
    """
    rng = np.random.default_rng(seed)
    train, heldout = world.questions("train"), world.questions("heldout")
    guess = _commonest_answers(train)
    expert, random = PerfectPlayer(search), RandomSearcher(world.relations, search, max_searches, rng)
    paths: dict[int, list[list[float]]] = defaultdict(list)
    for chain, question in zip(world.chains("heldout"), heldout, strict=True):
        if question.metadata["kind"] in ("chain", "unordered"):
            paths[chain.hops].append(belief_path(world, chain))
    told = any(question.metadata["kind"] == "unordered" for question in heldout)
    as_told, without_plan = Unplanned(search), Unplanned(search, waits=True)
    return Difficulty(
        questions=Counter(question.metadata["kind"] for question in heldout),
        closed_book=_exact(heldout, [guess.get(_kind(question), "") for question in heldout]),
        expert=_exact(heldout, [expert.answer(question) for question in heldout]),
        random_searcher=_exact(heldout, [random.answer(question) for question in heldout]),
        as_told=_exact(heldout, [as_told.answer(q) for q in heldout]) if told else None,
        without_plan=_exact(heldout, [without_plan.answer(q) for q in heldout]) if told else None,
        belief_by_hops={hops: np.mean(paths[hops], axis=0).tolist() for hops in sorted(paths)},
    )


class PerfectPlayer:
    """Knows the meaning of questions and the form of documents, but no fact."""

    def __init__(self, search: Search):
        self._search = search

    def answer(self, question: Question) -> str:
        """Returns the answer; "" where the documents do not state it."""
        meant = question.metadata
        if meant["kind"] == "comparison":
            return next(
                (name for name in meant["names"] if self._look_up(name, meant["keys"][0]) in meant["asked"]),
                "",
            )
        found = meant["entity"]
        for key in meant["keys"]:
            found = self._look_up(found, key)
        if meant["kind"] == "yes_no":
            return "yes" if found in meant["asked"] else "no"
        return found

    def _look_up(self, name: str, key: str) -> str:
        return read_fact(self._search(f"{name} {key}"), key)


class Unplanned(PerfectPlayer):
    """The player with as many searches, who does not work out the order of hops that are told out of it.

    Args:
        search: returns the best document for a query.
        waits: whether it takes the first hop told whose person it knows. Else it takes the hops as told, and
            asks for the words themselves where it knows no person.
    """

    def __init__(self, search: Search, waits: bool = False):
        super().__init__(search)
        self._waits = waits

    def answer(self, question: Question) -> str:
        """Returns the answer; "" where its searches end before it has asked for the attribute."""
        meant = question.metadata
        if meant["kind"] != "unordered":
            return super().answer(question)
        left, found = list(meant["told"]), {name: name for name in people(question)}
        for _ in meant["keys"]:
            key, whom = next(hop for hop in left if not self._waits or hop[1] in found)
            left.remove([key, whom])
            found[key] = self._look_up(found.get(whom, whom), key)
        return found.get(meant["keys"][-1], "")


class RandomSearcher:
    """Searches for random facts, and answers with a value that it has seen."""

    def __init__(self, relations: Sequence[str], search: Search, max_searches: int, rng: np.random.Generator):
        self._relations, self._search, self._max_searches, self._rng = relations, search, max_searches, rng

    def answer(self, question: Question) -> str:
        """Returns a random answer of the right kind among the values seen."""
        meant = question.metadata
        known = people(question)
        values = []
        for _ in range(self._max_searches):
            key = self._pick([*self._relations, *ATTRIBUTES])
            document = self._search(f"{self._pick(known)} {key}")
            known += [name for relation in self._relations if (name := read_fact(document, relation))]
            values.append(read_fact(document, meant["keys"][-1]))
        if meant["kind"] == "comparison":
            return self._pick(meant["names"])
        return self._pick(["yes", "no"] if meant["kind"] == "yes_no" else values)

    def _pick(self, texts: Sequence[str]) -> str:
        return texts[int(self._rng.integers(len(texts)))]


def people(question: Question) -> list[str]:
    """Returns the people whom the question names, in its order."""
    meant = question.metadata
    if meant["kind"] == "unordered":
        keys = [key for key, _ in meant["told"]]
        return [whom for _, whom in meant["told"] if whom not in keys]
    return list(meant["names"]) if meant["kind"] == "comparison" else [meant["entity"]]


def read_fact(document: Document, key: str) -> str:
    """Returns the value that the document states for `key`; "" where it states none."""
    _, stated, rest = f" {document.text}".partition(f" {document.title} {key} ")
    return rest.partition(" .")[0] if stated else ""


def _kind(question: Question) -> tuple[str, str]:
    return question.metadata["kind"], question.metadata["keys"][-1]


def _commonest_answers(questions: Sequence[Question]) -> dict[tuple[str, str], str]:
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for question in questions:
        answers[_kind(question)][question.golds[0]] += 1
    return {
        kind: min(counts, key=lambda answer: (-counts[answer], answer)) for kind, counts in answers.items()
    }


def _exact(questions: Sequence[Question], answers: Sequence[str]) -> float:
    return float(
        np.mean(
            [em_squad(answer, question.golds) for question, answer in zip(questions, answers, strict=True)]
        )
    )
