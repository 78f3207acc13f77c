"""Aliases of values, and first names that two entities share."""

from envs.world.config import WorldSettings
from envs.world.world import build_world

SMALL = {"train_questions": 200, "heldout_questions": 100}


def world_of(**knobs):
    return build_world(WorldSettings(**(SMALL | knobs)))


def test_aliases_and_shared_names():
    plain, world = world_of(), world_of(aliases=2)
    question = world.questions("train")[0]
    assert len(set(question.golds)) == 3 and question.golds[:1] == plain.questions("train")[0].golds
    said = {world.value(entity, "color") for entity in range(100)}
    assert said - {plain.value(entity, "color") for entity in range(100)}, (
        "some documents use another name of the color"
    )
    shared = world_of(collisions=2)
    assert shared.titles[0] == shared.titles[1] and len({*shared.names[:2], shared.titles[0]}) == 3
    assert shared.documents[1].text.startswith(
        f"{shared.titles[0]} is {shared.names[1]} . {shared.titles[0]} "
    )
