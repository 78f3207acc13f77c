"""What makes a world harder: each knob does what it says, changes nothing else, and an expert still gets
everything right.
"""

import hashlib

import bm25s
import numpy as np
import pytest

from envs.search.config import SearchEnvSettings
from envs.world.difficulty import difficulty
from envs.world.evidence import BRANCHES, PLACES
from envs.world.ideal_reader import belief_path
from envs.world.world import WorldSettings, build_world

SMALL = {"train_questions": 200, "heldout_questions": 100}
PLAIN = build_world(WorldSettings(**SMALL))


def world_of(**knobs):
    return build_world(WorldSettings(**(SMALL | knobs)))


def play(world):
    index, tokenize = bm25s.BM25(), bm25s.tokenization.Tokenizer(stopwords=[])
    index.index(
        tokenize.tokenize([document.contents for document in world.documents], show_progress=False),
        show_progress=False,
    )

    def search(query):
        ids = tokenize.tokenize([query], update_vocab=False, show_progress=False)
        return world.documents[int(index.retrieve(ids, k=1, show_progress=False)[0][0, 0])]

    return difficulty(world, search)


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
def test_same_settings_same_bytes(knobs, digest):
    world = world_of(**knobs)
    lines = [d.id + d.contents for d in world.documents]
    lines += [q.text + str(q.golds) for split in ("train", "heldout") for q in world.questions(split)]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"noise": 3},
        {"distractors": 100},
        {"aliases": 3},
        {"collisions": 30},
        {"graded_evidence": 0.8},
        {"relations": 8},
    ]
    + [{"yes_no": 0.5, "comparison": 0.5}, {"entities": 400}]
    + [
        {
            "noise": 2,
            "distractors": 50,
            "aliases": 2,
            "collisions": 20,
            "graded_evidence": 0.5,
            "yes_no": 0.2,
            "comparison": 0.2,
        }
    ],
)
def test_an_expert_is_always_right_and_nobody_else_is(knobs):
    found = play(world_of(**knobs))
    guessable = knobs.get("yes_no", 0) + knobs.get("comparison", 0)
    assert found.expert == 1.0
    assert found.closed_book < 0.1 + 0.6 * guessable
    assert found.random_searcher < 0.35 + 0.4 * guessable


def test_each_knob_leaves_the_rest_as_it_was():
    documents, questions = texts(PLAIN)
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


def test_yes_no_and_comparison_questions_say_what_the_documents_say():
    world = world_of(yes_no=0.5, comparison=0.5)
    questions = world.questions("train")
    kinds = [question.metadata["kind"] for question in questions]
    assert 70 < kinds.count("yes_no") < 130 and kinds.count("comparison") > 70
    assert 0.35 < np.mean([q.golds == ["yes"] for q in questions if q.metadata["kind"] == "yes_no"]) < 0.65
    assert len({q.text for q in questions} | {q.text for q in world.questions("heldout")}) == 300
    one = next(q for q in questions if q.metadata["kind"] == "comparison")
    (attribute,), (asked,) = one.metadata["keys"], one.metadata["asked"]
    values = {name: world.value(world.names.index(name), attribute) for name in one.metadata["names"]}
    assert one.golds == [name for name, value in values.items() if value == asked]
    assert (
        one.text
        == f"who has {attribute} {asked} , {one.metadata['names'][0]} or {one.metadata['names'][1]} ?"
    )


def test_aliases_and_shared_names():
    world = world_of(aliases=2)
    question = world.questions("train")[0]
    assert len(set(question.golds)) == 3 and question.golds[:1] == PLAIN.questions("train")[0].golds
    said = {world.value(entity, "color") for entity in range(100)}
    assert said - {PLAIN.value(entity, "color") for entity in range(100)}, (
        "some documents use another name of the color"
    )
    shared = world_of(collisions=2)
    assert shared.titles[0] == shared.titles[1] and len({*shared.names[:2], shared.titles[0]}) == 3
    assert shared.documents[1].text.startswith(
        f"{shared.titles[0]} is {shared.names[1]} . {shared.titles[0]} "
    )


def test_graded_evidence_narrows_the_answer_on_the_way():
    def mean_path(grade, hops):
        world = world_of(graded_evidence=grade, hops={hops: 1.0})
        return np.mean([belief_path(world, chain) for chain in world.chains("heldout")], axis=0)

    np.testing.assert_allclose(mean_path(0.0, 3), [1 / 48, 1 / 48, 1 / 48, 1.0])
    for hops in (2, 3, 4):
        path = mean_path(0.9, hops)
        assert path[0] == pytest.approx(1 / 48) and path[-1] == 1.0
        assert np.all(np.diff(path) > 0.004), path
    # With certainty a relation leaves three places of each, so the documents of four hops leave 27 values, 9,
    # 3 and 1.
    np.testing.assert_allclose(mean_path(1.0, 4), [1 / 48, 1 / 27, 1 / 9, 1 / 3, 1.0], atol=1e-9)
    np.testing.assert_allclose(mean_path(1.0, 2), [1 / 48, 1 / 3, 1.0], atol=1e-9)


def test_with_certain_evidence_every_attribute_tells_the_place_and_relations_lead_to_its_branches():
    world = world_of(graded_evidence=1.0)
    places_N = world.values_NA[:, 0]
    assert np.all(world.values_NA == places_N[:, None])
    steps_NR = (places_N[world.relations_NR] - BRANCHES * places_N[:, None]) % PLACES
    assert set(steps_NR.ravel().tolist()) == set(range(BRANCHES))


def test_words_that_the_embedded_policy_lacks_are_refused():
    import envs.engine
    from envs.errors import InputError
    from envs.search.task import SearchTask

    folder = f"{envs.engine.__path__[0]}/tiny_policy"
    with pytest.raises(InputError, match="the tokenizer does not know the world's words .*yes"):
        SearchTask(SearchEnvSettings(tokenizer=folder, world=WorldSettings(yes_no=0.5, **SMALL)))
    SearchTask(SearchEnvSettings(tokenizer=folder, world=WorldSettings(graded_evidence=0.5, **SMALL)))
