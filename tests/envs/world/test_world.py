import hashlib

import bm25s
import pytest

from envs.world.chain import Chain
from envs.world.config import WorldSettings
from envs.world.words import ATTRIBUTES, RELATIONS, VALUES, vocabulary
from envs.world.world import build_world, split_by_share

SMALL = {"train_questions": 200, "heldout_questions": 100}


def world_of(**knobs):
    return build_world(WorldSettings(**(SMALL | knobs)))


def test_same_settings_same_bytes():
    world = build_world(WorldSettings(seed=3, entities=40, train_questions=60, heldout_questions=20))
    text = "\n".join([d.contents for d in world.documents] + [q.text for q in world.questions("train")])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e21a48d464f5f9cd"


def test_the_default_world_is_the_one_that_the_embedded_policy_was_trained_in():
    world = build_world(WorldSettings(seed=0, entities=100, hops={1: 0.15, 2: 0.45, 3: 0.4}))
    lines = [d.id + d.contents for d in world.documents]
    for split in ("train", "heldout"):
        lines += [q.id + q.text + str(q.golds) + str(q.gold_document_ids) for q in world.questions(split)]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "9dcceeac5f0bea7d"


def test_documents_state_the_facts_under_the_entity_s_name():
    world = build_world(WorldSettings(entities=30, train_questions=10, heldout_questions=5))
    for entity, document in enumerate(world.documents):
        facts = document.text.removesuffix(" .").split(" . ")
        assert len(facts) == len(RELATIONS) + len(ATTRIBUTES)
        for fact in facts:
            name, key, value = fact.split()
            assert name == document.title and world.value(entity, key) == value and value != name


def test_gold_follows_from_the_gold_documents_alone():
    world = build_world(
        WorldSettings(hops={1: 1, 2: 1, 3: 1, 4: 1}, train_questions=80, heldout_questions=20)
    )
    documents = {d.id: d for d in world.documents}
    for question in world.questions("train") + world.questions("heldout"):
        words = question.text.removesuffix(" ?").split(" of ")
        name = words.pop()
        for document_id in question.gold_document_ids:
            document = documents[document_id]
            assert document.title == name
            name = document.text.split(f"{name} {words.pop()} ")[1].split()[0]
        assert (
            question.golds == [name] and not words and question.hops == len(set(question.gold_document_ids))
        )


def test_splits_are_disjoint_and_keep_the_hop_mix():
    world = build_world(WorldSettings())
    train, heldout = world.questions("train"), world.questions("heldout")
    texts = {q.text for q in train}
    assert (
        len(texts) == 1500 and len({q.text for q in heldout}) == 500 and not texts & {q.text for q in heldout}
    )
    for split in (train, heldout):
        assert [sum(q.hops == h for q in split) / len(split) for h in (1, 2, 3)] == [0.15, 0.45, 0.4]
    assert all(
        a.isdisjoint(b) for a in map(set, VALUES.values()) for b in map(set, VALUES.values()) if a != b
    )


def test_bm25_finds_a_document_by_its_title():
    world = build_world(WorldSettings())
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize([d.contents for d in world.documents], show_progress=False), show_progress=False
    )
    queries = [f"{d.title} {key}" for d in world.documents for key in ("mother", "color", "")]
    found, _ = index.retrieve(bm25s.tokenize(queries, show_progress=False), k=1, show_progress=False)
    assert [int(row[0]) for row in found] == [entity for entity in range(100) for _ in range(3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": 6000}, "lower one of them"),
        ({"distractors": 5500}, "lower one of them"),
        ({"entities": 4800, "aliases": 1}, "lower one of them"),
        ({"hops": {6: 1.0}}, "hops between 1 and 5"),
        ({"hops": {3: 1.0}, "relations": 1}, "hops between 1 and 2"),
        ({"graded_evidence": 0.5, "entities": 10}, "at least 48 entities"),
        ({"collisions": 20, "entities": 30}, "make 15 pairs"),
        ({"yes_no": 0.6, "comparison": 0.6}, "add up to more than 1"),
        (
            {"hops": {1: 1.0}, "entities": 10, "train_questions": 100},
            "too few questions of 1 hops for 600 questions in all: raise `env_config.world.entities`",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_world(WorldSettings(**settings)).questions("train")


def test_chain_keys_and_share_split():
    assert Chain(0, (1, 0), 2).keys == ["friend", "mother", "animal"]
    assert split_by_share(7, {2: 0.5, 1: 0.25, 3: 0.25}) == {1: 2, 2: 3, 3: 2}
    assert len(vocabulary()) == len(set(vocabulary())) == 305


def texts(world):
    return [d.text for d in world.documents], [q.text for q in world.questions("heldout")]


@pytest.mark.parametrize(
    ("knobs", "digest"),
    [
        ({"graded_evidence": 0.7}, "0c96f5c2582667f6"),
        ({"yes_no": 0.3, "comparison": 0.3, "aliases": 2}, "580dd5090ad083dd"),
        ({"noise": 3, "distractors": 40, "collisions": 20, "relations": 6}, "b0af16ff9bd1c3dd"),
    ],
)
def test_same_options_same_bytes(knobs, digest):
    world = world_of(**knobs)
    lines = [d.id + d.contents for d in world.documents]
    lines += [q.text + str(q.golds) for split in ("train", "heldout") for q in world.questions(split)]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


def test_each_knob_leaves_the_rest_as_it_was():
    documents, questions = texts(world_of())
    assert (
        texts(world_of(distractors=5))[0][:100] == documents and len(world_of(distractors=5).documents) == 105
    )
    assert (
        texts(world_of(noise=1))[1]
        == texts(world_of(distractors=5))[1]
        == texts(world_of(aliases=2))[1]
        == questions
    )
    assert texts(world_of(yes_no=1.0))[0] == documents
    noisy = texts(world_of(noise=2))[0]
    for before, after in zip(documents, noisy, strict=True):
        facts, sentences = before.split(" . "), after.split(" . ")
        assert len(sentences) == len(facts) + 2
