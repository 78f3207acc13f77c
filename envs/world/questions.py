"""Questions of the world that are no chains: yes or no, and comparisons.

``is color of mother of mira red ?`` needs the chain's documents; ``who has color red , mira or toma ?`` needs
one of two. Both can be guessed half the time, which is what they are for: they show whether belief and credit
stand that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.data.question import Question
from envs.world.text import value_names
from envs.world.words import ATTRIBUTES, VALUES

if TYPE_CHECKING:
    from envs.world.chain import Chain
    from envs.world.world import World

MAX_DRAWS = 200


def vary(world: World, chain: Chain, id: str, seen: set[str], rng: np.random.Generator) -> Question:
    """The question of `chain`, or by the shares of the settings a yes/no question or a comparison made from
    it.

    `seen` holds the texts so far; a comparison that cannot be made new falls back to the chain.
    """
    settings = world.settings
    draw = int(rng.integers(0, 1_000_000))
    question = world.question(chain, id)
    if draw < round(settings.yes_no * 1_000_000):
        question = yes_no(world, chain, id, rng)
    elif draw < round((settings.yes_no + settings.comparison) * 1_000_000):
        question = comparison(world, chain, id, seen, rng) or question
    seen.add(question.text)
    return question


def yes_no(world: World, chain: Chain, id: str, rng: np.random.Generator) -> Question:
    """Whether the chain's value is the one asked for: right half the time, else another of the 47."""
    plain, attribute = world.question(chain, id), ATTRIBUTES[chain.attribute]
    value = int(world.values_NA[world.path(chain)[-1], chain.attribute])
    is_right = bool(rng.integers(2))
    if not is_right:
        value = (value + 1 + int(rng.integers(len(VALUES[attribute]) - 1))) % len(VALUES[attribute])
    asked = value_names(attribute, value, world.settings.aliases)
    plain.text = f"is {plain.text.removesuffix(' ?')} {asked[0]} ?"
    plain.golds = ["yes" if is_right else "no"]
    plain.metadata |= {"kind": "yes_no", "asked": asked}
    return plain


def comparison(
    world: World, chain: Chain, id: str, seen: set[str], rng: np.random.Generator
) -> Question | None:
    """Who of two has a value; None where no new question of this kind is found for the chain's entity and
    attribute.
    """
    attribute, values_N = ATTRIBUTES[chain.attribute], world.values_NA[:, chain.attribute]
    for _ in range(MAX_DRAWS):
        other = int(rng.integers(len(world.names)))
        if values_N[other] == values_N[chain.entity]:
            continue
        pair = [chain.entity, other] if rng.integers(2) else [other, chain.entity]
        asked = value_names(attribute, int(values_N[chain.entity]), world.settings.aliases)
        first, second = (world.names[entity] for entity in pair)
        text = f"who has {attribute} {asked[0]} , {first} or {second} ?"
        if text not in seen:
            return Question(
                id=id,
                text=text,
                golds=[world.names[chain.entity]],
                data_source="world",
                hops=2,
                gold_document_ids=[world.document_id(entity) for entity in pair],
                metadata={
                    "kind": "comparison",
                    "names": [first, second],
                    "keys": [attribute],
                    "asked": asked,
                },
            )
    return None
