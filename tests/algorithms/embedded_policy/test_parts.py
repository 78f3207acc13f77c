"""What the warm start's batches are put together from."""

import numpy as np
import pytest

from algorithms.embedded_policy.__main__ import main
from algorithms.embedded_policy.parts import Parts, PlanParts
from algorithms.embedded_policy.plans import PlanSequences
from algorithms.embedded_policy.sequences import SequenceMaker
from algorithms.embedded_policy.trainer import GRADED, PLANNING, Recipe
from envs.search.protocols.tiny import TinyProtocol, build_tokenizer
from envs.world.config import WorldSettings
from envs.world.words import ATTRIBUTES, vocabulary
from envs.world.world import build_world

PROTOCOL = TinyProtocol(build_tokenizer(vocabulary()))


@pytest.fixture
def parts():
    rng = np.random.Generator(np.random.PCG64(0))
    world = build_world(WorldSettings(seed=3, entities=60, graded_evidence=1.0))
    return Parts(SequenceMaker(PROTOCOL, world, rng, GRADED.habits), world, rng, GRADED.hops)


def learned_words(sequence):
    ids = [token for token, learned in zip(sequence.ids, sequence.learned, strict=True) if learned]
    return PROTOCOL.tokenizer.convert_ids_to_tokens(ids)


@pytest.fixture
def plan_parts():
    rng = np.random.Generator(np.random.PCG64(0))
    world = build_world(WorldSettings(seed=3, entities=60, unordered=1.0, side_chains=1))
    maker = PlanSequences(PROTOCOL, world, rng, PLANNING.habits)
    return PlanParts(maker, world, rng, {3: 1.0})


def test_every_part_of_the_planning_recipe_is_made(plan_parts):
    for name in sorted({name for phase in PLANNING.phases for name in phase.parts}):
        made = getattr(plan_parts, name)(3)
        assert len(made) == 3 and all(any(sequence.learned) for sequence in made), name


def test_a_plan_tells_the_hops_in_order_and_the_search_begins_where_it_ends(plan_parts):
    """One agent sees the same questions, and learns the same first query without the plan."""
    for sequence in plan_parts.plans(20):
        prompt, _, plan = PROTOCOL.text(sequence.ids).partition(" <message> ")
        question = prompt.split("<reader> ")[1]
        hops = dict(hop.split() for hop in question.removesuffix(" ?").split(" . "))
        asked, second, first, person = plan.removesuffix(" <end>").split()
        assert asked in ATTRIBUTES and (hops[asked], hops[second], hops[first]) == (second, first, person)
        assert len(hops) == 5 and not question.startswith(f"{first} {person}")
        assert " ".join(learned_words(sequence)) == f"<message> {plan}"
    for sequence in plan_parts.planned_searches(10):
        plan = PROTOCOL.text(sequence.ids).partition("<note> ")[2].partition(" </note>")[0]
        key, person = plan.split()[-2:]
        assert learned_words(sequence)[:4] == ["<search>", person, key, "<end>"]
    for sequence in plan_parts.first_queries(10):
        person, key = learned_words(sequence)
        assert f"{key} {person}" in PROTOCOL.text(sequence.ids)


def test_hops_told_are_those_of_the_question(plan_parts):
    for sequence in plan_parts.told_lookups(10):
        question, *hops = PROTOCOL.text(sequence.ids).split(" <message> ")
        assert len(hops) == 12 and len(set(hops)) > 1
        for hop, whom in zip(hops, learned_words(sequence), strict=True):
            told = hop.removesuffix(" <end>")
            assert told in question and told.split()[-1] == whom


def test_every_part_of_every_recipe_is_made(parts):
    names = {name for settings in (Recipe(), GRADED) for phase in settings.phases for name in phase.parts}
    for name in sorted(names):
        made = getattr(parts, name)(3)
        assert len(made) == 3 and all(any(sequence.learned) for sequence in made), name


def test_forecasts_and_early_beliefs_learn_values_that_were_not_read(parts):
    for sequence in parts.forecasts(4):
        assert len(learned_words(sequence)) == 16
    for sequence in parts.early_beliefs(40):
        (answer,) = learned_words(sequence)
        where = sequence.learned.index(True)
        assert PROTOCOL.tokenizer.convert_ids_to_tokens(sequence.ids[where - 1]) == "<answer>"
        assert sequence.ids.count(PROTOCOL.tokenizer.convert_tokens_to_ids("<search>")) in (1, 2), answer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--graded"], "--graded teaches a policy that reads and searches already: name one with --start"),
        (
            ["--planning"],
            "--planning teaches a policy that reads and searches already: name one with --start",
        ),
        (["--planning", "--graded", "--start", "tiny"], "are two recipes: give one of them"),
        (["--planning", "--start", "./nowhere"], "--start: model_path ./nowhere does not exist"),
    ],
)
def test_a_recipe_s_mistaken_options_are_told_in_a_sentence(tmp_path, capsys, options, said):
    assert main([*options, "--out", str(tmp_path / "x")]) == 2
    assert said in " ".join(capsys.readouterr().out.split())
