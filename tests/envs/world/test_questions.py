"""Yes/no questions and comparisons."""

import numpy as np

from envs.world.config import WorldSettings
from envs.world.world import build_world


def test_yes_no_and_comparison_questions_say_what_the_documents_say():
    world = build_world(WorldSettings(yes_no=0.5, comparison=0.5, train_questions=200, heldout_questions=100))
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
