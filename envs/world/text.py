"""What makes the world's documents harder to search and to read: noise, distractors, aliases, names that two
entities share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.data.corpus import Document
from envs.errors import InputError
from envs.world.words import ATTRIBUTES, NAMES, VALUES, names

if TYPE_CHECKING:
    from envs.world.world import World

NOISE = (
    "{name} once met {other} at the market",
    "people near {other} speak well of {name}",
    "in summer {name} walks to the river and back",
    "nobody knows what {name} thinks of {other}",
)
MAX_ALIASES = 5
ALIAS_NAMES = MAX_ALIASES * sum(len(values) for values in VALUES.values())
"""Names at the end of the pool that are kept for aliases; surnames come before them."""


def share_names(entity_names: list[str], pairs: int) -> tuple[list[str], list[str]]:
    """(titles, mentions): the first 2 * `pairs` entities share a first name two by two, and others call them
    by surname too.
    """
    if 2 * pairs > len(entity_names):
        raise InputError(
            f"world.collisions is {pairs}, but {len(entity_names)} entities make {len(entity_names) // 2} "
            "pairs"
        )
    titles, mentions = list(entity_names), list(entity_names)
    for entity in range(2 * pairs):
        titles[entity] = entity_names[entity - entity % 2]
        mentions[entity] = f"{titles[entity]} {names()[-1 - ALIAS_NAMES - entity]}"
    return titles, mentions


def value_names(attribute: str, value: int, aliases: int) -> list[str]:
    """All names of a value: its word first, then `aliases` more that nothing else is called."""
    first = (ATTRIBUTES.index(attribute) * len(VALUES[attribute]) + value) * MAX_ALIASES
    pool = names()
    return [VALUES[attribute][value], *(pool[-1 - first - k] for k in range(aliases))]


def add_noise(
    facts: list[str], world: World, entity: int, sentences: int, rng: np.random.Generator
) -> list[str]:
    """`facts` with sentences put in between that answer nothing, but name the entity and others."""
    mixed = list(facts)
    for _ in range(sentences):
        template, other = NOISE[rng.integers(len(NOISE))], world.names[rng.integers(len(world.names))]
        mixed.insert(
            int(rng.integers(len(mixed) + 1)), template.format(name=world.titles[entity], other=other) + " ."
        )
    return mixed


def distractors(world: World, count: int, rng: np.random.Generator) -> list[Document]:
    """Documents about people whom no question asks for, in the same form, who are related to those that are
    asked for.
    """
    first, found = max(len(NAMES), world.settings.entities), []
    for k, name in enumerate(names()[first : first + count]):
        facts = [
            f"{name} {relation} {world.names[rng.integers(len(world.names))]} ."
            for relation in world.relations
        ]
        facts += [
            f"{name} {attribute} {VALUES[attribute][rng.integers(len(VALUES[attribute]))]} ."
            for attribute in ATTRIBUTES
        ]
        text = " ".join(facts[i] for i in rng.permutation(len(facts)))
        found.append(Document(id=f"world-d{k:04d}", title=name, text=text))
    return found
