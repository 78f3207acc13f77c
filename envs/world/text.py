"""Options that make the world's documents harder to search and to read.

They are noise sentences, distractor documents, aliases of values, and first names that two entities share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from envs.data.corpus import Document
from envs.errors import InputError
from envs.world.words import ATTRIBUTES, NAMES, VALUES, names

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
    """Gives the first 2 * `pairs` entities the same first name two by two, and a surname each.

    Two entities "mira" and "toma" become "mira" and "mira" in their own documents (titles), and for instance
    "mira zaza" and "mira vuvu" in questions and in other documents (mentions).

    Returns:
        (titles, mentions), one of each per entity.

    Raises:
        InputError: there are fewer than 2 * `pairs` entities.
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
    """Returns all names of a value: its word first, then `aliases` more that name nothing else.

    Args:
        attribute: one of `ATTRIBUTES`.
        value: index into `VALUES[attribute]`.
        aliases: number of further names, at most `MAX_ALIASES`.
    """
    first = (ATTRIBUTES.index(attribute) * len(VALUES[attribute]) + value) * MAX_ALIASES
    pool = names()
    return [VALUES[attribute][value], *(pool[-1 - first - k] for k in range(aliases))]


def add_noise(
    facts: list[str], name: str, others: Sequence[str], sentences: int, rng: np.random.Generator
) -> list[str]:
    """Puts sentences that answer nothing between the facts of a document.

    Args:
        facts: the sentences of the document.
        name: what the document calls its entity.
        others: the names that the noise may mention.
        sentences: how many to add.
        rng: decides templates, names and places.
    """
    mixed = list(facts)
    for _ in range(sentences):
        template, other = NOISE[rng.integers(len(NOISE))], others[int(rng.integers(len(others)))]
        mixed.insert(int(rng.integers(len(mixed) + 1)), template.format(name=name, other=other) + " .")
    return mixed


def distractors(
    entity_names: Sequence[str], relations: Sequence[str], count: int, rng: np.random.Generator
) -> list[Document]:
    """Makes documents about people whom no question asks for, in the form of the others.

    Args:
        entity_names: the world's entities, to whom these people are related.
        relations: the kinds of relations.
        count: the number of documents.
        rng: decides relations, values and the order of the facts.
    """
    first, found = max(len(NAMES), len(entity_names)), []
    for k, name in enumerate(names()[first : first + count]):
        facts = [
            f"{name} {relation} {entity_names[int(rng.integers(len(entity_names)))]} ."
            for relation in relations
        ]
        facts += [
            f"{name} {attribute} {VALUES[attribute][rng.integers(len(VALUES[attribute]))]} ."
            for attribute in ATTRIBUTES
        ]
        text = " ".join(facts[i] for i in rng.permutation(len(facts)))
        found.append(Document(id=f"world-d{k:04d}", title=name, text=text))
    return found
