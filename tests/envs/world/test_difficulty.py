"""Whatever makes a world harder, an expert is always right, and nobody else is."""

import bm25s
import pytest

from envs.world.config import WorldSettings
from envs.world.difficulty import difficulty
from envs.world.world import build_world

SMALL = {"train_questions": 200, "heldout_questions": 100}


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
