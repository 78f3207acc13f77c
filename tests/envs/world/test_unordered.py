"""Questions told out of order: exact texts by hand, the order that follows from them, and who needs it."""

import hashlib

import numpy as np
import pytest

from envs.data.corpus import Document
from envs.data.question import Question
from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.difficulty import PerfectPlayer, RandomSearcher, Unplanned, people
from envs.world.unordered import unordered_question
from envs.world.words import ATTRIBUTES, RELATIONS, vocabulary
from envs.world.world import build_world

SMALL = {"train_questions": 200, "heldout_questions": 100}
MOTHER, FRIEND, TEACHER, RIVAL = range(4)
COLOR = ATTRIBUTES.index("color")


def world_of(**knobs):
    return build_world(WorldSettings(**(SMALL | knobs)))


def order_of(text):
    """Works the order out from the text alone, from the goal back: the person, then the keys to ask for."""
    hops = dict(hop.split(" ", 1) for hop in text.removesuffix(" ?").split(" . "))
    (key,) = set(hops) & set(ATTRIBUTES)
    keys = [key]
    while hops[key] in hops:
        key = hops[key]
        keys.insert(0, key)
    return hops[key], keys


class Ordered:
    """Draws, in place of a generator of random numbers, the order and the people that a test wants."""

    def __init__(self, *permutations, person=0):
        self.permutations, self.person = list(permutations), person

    def permutation(self, count):
        order = self.permutations.pop(0)
        assert sorted(order) == list(range(count))
        return np.array(order)

    def integers(self, high):
        return self.person


def test_a_question_by_hand():
    world = world_of(unordered=1.0)
    mira = world.names[7]
    chain = Chain(7, (FRIEND, MOTHER), COLOR)
    # Told in order: friend of mira, mother of friend, color of mother. Of the unused relations none is drawn.
    told = unordered_question(world, chain, "q", Ordered([0, 1], [1, 2, 0]))
    assert told.text == f"mother friend . color mother . friend {mira} ?"
    assert told.metadata["told"] == [["mother", "friend"], ["color", "mother"], ["friend", mira]]
    plain = world.question(chain, "q")
    assert plain.text == f"color of mother of friend of {mira} ?"
    assert (told.golds, told.hops, told.gold_document_ids) == (
        plain.golds,
        plain.hops,
        plain.gold_document_ids,
    )
    # An order that begins with the first hop is drawn again.
    again = unordered_question(world, chain, "q", Ordered([0, 1], [0, 2, 1], [2, 1, 0]))
    assert again.text == f"color mother . mother friend . friend {mira} ?"
    assert unordered_question(world, Chain(7, (), COLOR), "q", Ordered()).text == f"color of {mira} ?"


def test_a_side_chain_by_hand():
    world = world_of(unordered=1.0, side_chains=1)
    chain = Chain(7, (FRIEND, MOTHER), COLOR)
    mira, zira = world.names[7], world.names[world.path(chain)[-1] - 1]
    draws = Ordered([1, 0], [1, 3, 2, 0, 4], person=world.names.index(zira))
    told = unordered_question(world, chain, "q", draws)
    # The relations left are teacher and rival, drawn in the order rival, teacher.
    assert told.text == (f"mother friend . rival {zira} . color mother . friend {mira} . teacher rival ?")
    assert people(Question("q", told.text, [], metadata=told.metadata)) == [zira, mira]


@pytest.mark.parametrize("side_chains", [0, 1])
def test_the_order_follows_from_the_text_and_leads_to_the_answer(side_chains):
    world = world_of(unordered=1.0, side_chains=side_chains)
    chains = world.chains("train")
    firsts = set()
    for question, chain in zip(world.questions("train"), chains, strict=True):
        assert set(question.text.split()) <= set(vocabulary())
        if chain.hops == 1:
            assert question.text == world.question(chain, "").text and question.metadata["kind"] == "chain"
            continue
        assert order_of(question.text) == (world.names[chain.entity], chain.keys)
        told = [" ".join(hop) for hop in question.metadata["told"]]
        assert " . ".join(told) + " ?" == question.text
        assert len(told) == chain.hops + side_chains * (chain.hops - 1)
        first = f"{chain.keys[0]} {world.names[chain.entity]}"
        assert first in told[1:]
        firsts.add(told.index(first))
        (side,) = [set(people(question)) - {world.names[chain.entity]}]
        assert len(side) == side_chains and not side & {world.names[e] for e in world.path(chain)}
    assert firsts == set(range(1, 3 + 2 * side_chains))


def lines(world):
    found = [d.id + d.contents for d in world.documents]
    return found + [q.text + str(q.golds) for split in ("train", "heldout") for q in world.questions(split)]


def test_same_knob_same_bytes_and_nothing_else_changes():
    world = world_of(unordered=0.5, side_chains=1, yes_no=0.2)
    digest = hashlib.sha256("\n".join(lines(world)).encode()).hexdigest()[:16]
    assert digest == "2b663555d28b1ff1"
    plain = world_of(yes_no=0.2)
    assert [d.text for d in world.documents] == [d.text for d in plain.documents]
    kinds = []
    for told, before in zip(world.questions("train"), plain.questions("train"), strict=True):
        kinds.append(told.metadata["kind"])
        assert (told.id, told.golds, told.gold_document_ids) == (
            before.id,
            before.golds,
            before.gold_document_ids,
        )
        assert (told.text == before.text) == (told.metadata["kind"] != "unordered")
    # Of 170 questions of two or three hops, 80% are no yes/no questions, and half of those are out of order.
    assert 50 < kinds.count("unordered") < 86 and kinds.count("yes_no") > 20
    assert all(q.metadata["kind"] != "unordered" for q in plain.questions("train"))


def searched(world, question, player):
    """The queries of a player who finds each document by the name that the query begins with."""
    queries = []

    def search(query):
        queries.append(query)
        words = query.split()
        by_title = {d.title: d for d in world.documents}
        return by_title.get(words[0], Document(id="none", title="nobody", text=""))

    return player(search).answer(question), queries


def test_the_expert_orders_hops_and_the_others_do_not():
    world = world_of(unordered=1.0, side_chains=1)
    chain = Chain(7, (FRIEND, MOTHER), COLOR)
    path = [world.names[entity] for entity in world.path(chain)]
    side = next(e for e in range(100) if e not in world.path(chain))
    draws = Ordered([1, 0], [3, 2, 4, 0, 1], person=side)
    question = unordered_question(world, chain, "q", draws)
    zira, rival = world.names[side], world.value(side, "rival")
    assert question.text == (
        f"rival {zira} . color mother . teacher rival . friend {path[0]} . mother friend ?"
    )
    assert searched(world, question, PerfectPlayer) == (
        question.golds[0],
        [f"{path[0]} friend", f"{path[1]} mother", f"{path[2]} color"],
    )
    # As told: the mother is not known yet, so it searches for the word.
    assert searched(world, question, Unplanned) == ("", [f"{zira} rival", "mother color", f"{rival} teacher"])
    # The first hop that can be taken, three times: the color is not reached.
    answer, queries = searched(world, question, lambda search: Unplanned(search, waits=True))
    assert (answer, queries) == ("", [f"{zira} rival", f"{rival} teacher", f"{path[0]} friend"])
    # Told in an order that can be followed, the side chain last, whoever takes what can be taken is right.
    kind = unordered_question(world, chain, "q", Ordered([1, 0], [2, 0, 1, 3, 4], person=side))
    assert searched(world, kind, lambda search: Unplanned(search, waits=True))[0] == question.golds[0]
    assert searched(world, kind, Unplanned)[0] == ""


def test_a_random_searcher_knows_everybody_who_is_named():
    world = world_of(unordered=1.0, side_chains=1, hops={3: 1.0})
    rng, named = np.random.default_rng(0), set()
    question = world.questions("heldout")[0]
    for _ in range(40):
        player = lambda search: RandomSearcher(RELATIONS, search, 1, rng)  # noqa: E731
        named |= {query.split()[0] for query in searched(world, question, player)[1]}
    assert named == set(people(question)) and len(named) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side_chains": 1}, "set world.unordered above 0"),
        (
            {"unordered": 1.0, "side_chains": 1, "hops": {4: 1.0}},
            "needs 6 relations for questions of 4 hops, but there are 4: raise world.relations",
        ),
        ({"unordered": 1.0, "side_chains": 2}, "needs 6 relations for questions of 3 hops"),
    ],
)
def test_side_chains_without_questions_or_relations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_world(WorldSettings(**settings))


def test_more_relations_make_room_for_more_side_chains():
    world = world_of(unordered=1.0, side_chains=3, relations=8, hops={3: 1.0, 6: 0.0})
    question = world.questions("train")[0]
    assert len(question.metadata["told"]) == 3 + 3 * 2 and len(people(question)) == 4
    assert order_of(question.text)[1] == question.metadata["keys"]
