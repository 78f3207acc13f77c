"""Graded evidence: who somebody is related to depends on what they are like, so that each document on the way
narrows the answer.

Each entity lives at one of 48 places and has, with the chance of `graded_evidence`, that place's value of
every attribute. With the same chance a relation leads from place p to one of the places 3 p, 3 p + 1, 3 p + 2
(mod 48), each as likely. So at 1 a document leaves 27 values for the answer three relations on, 9 for two, 3
for one: belief trebles with each document on the way, as in natural text, where each says something about the
next. At 0 there are no places and a document says nothing of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.errors import InputError
from envs.world.words import VALUES

if TYPE_CHECKING:
    from envs.world.chain import Chain
    from envs.world.world import World

PLACES = len(next(iter(VALUES.values())))
"""As many as an attribute has values: the value's index is its place."""
BRANCHES = 3
"""Places that a relation leads to from each. Powers of it up to `PLACES` is what documents leave of the
answer."""


def draw_places(count: int, rng: np.random.Generator) -> np.ndarray:
    """Place of each of `count` entities [N], as even as can be.

    Raises InputError where one would be empty.
    """
    if count < PLACES:
        raise InputError(
            f"world.graded_evidence needs at least {PLACES} entities, got {count}: raise world.entities"
        )
    return rng.permutation(count) % PLACES


def relate_by_place(
    others_NR: np.ndarray, places_N: np.ndarray, grade: float, rng: np.random.Generator
) -> np.ndarray:
    """`others_NR` with a share `grade` of its entries redrawn from where the entity's place leads, never the
    entity itself.
    """
    related_NR = others_NR.copy()
    for entity, relation in np.argwhere(_chosen(others_NR.shape, grade, rng)):
        branch = np.flatnonzero(places_N == (BRANCHES * places_N[entity] + rng.integers(BRANCHES)) % PLACES)
        branch = branch[branch != entity]
        if len(branch):
            related_NR[entity, relation] = branch[rng.integers(len(branch))]
    return related_NR


def resemble_place(
    values_NA: np.ndarray, places_N: np.ndarray, grade: float, rng: np.random.Generator
) -> np.ndarray:
    """`values_NA` with a share `grade` of its entries set to the place's value."""
    return np.where(_chosen(values_NA.shape, grade, rng), places_N[:, None], values_NA)


def belief_path(world: World, chain: Chain) -> list[float]:
    """Belief in the gold answer after 0, 1, ... gold documents, of a reader who knows how the world is made
    but no fact of it.

    Bayes' rule over the places along the chain: the attributes of a document tell its entity's place, a
    relation leads to its branches with the chance of `graded_evidence`, and a place tells its people's
    values. The last document states the answer: 1.
    """
    grade, path = world.settings.graded_evidence, world.path(chain)
    chance_PV = grade * np.eye(PLACES) + (1 - grade) / PLACES
    lead_PP = np.full((PLACES, PLACES), (1 - grade) / PLACES)
    for place in range(PLACES):
        lead_PP[place, (BRANCHES * place + np.arange(BRANCHES)) % PLACES] += grade / BRANCHES
    gold = world.values_NA[path[-1], chain.attribute]
    place_P = np.full(PLACES, 1 / PLACES)
    beliefs = []
    for hops_read in range(chain.hops):
        if hops_read:
            place_P = place_P @ lead_PP if hops_read > 1 else place_P
            place_P = place_P * np.prod(chance_PV[:, world.values_NA[path[hops_read - 1]]], axis=1)
            place_P /= place_P.sum()
        ahead = chain.hops - max(hops_read, 1)
        beliefs.append(float(place_P @ np.linalg.matrix_power(lead_PP, ahead) @ chance_PV[:, gold]))
    return [*beliefs, 1.0]


def _chosen(shape: tuple[int, ...], grade: float, rng: np.random.Generator) -> np.ndarray:
    """A random share `grade` of the entries, by integer draws: the same on every machine."""
    return rng.integers(0, 1_000_000, size=shape) < round(grade * 1_000_000)
