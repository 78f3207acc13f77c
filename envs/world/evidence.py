"""Graded evidence: relations depend on attributes, so each document on the path narrows the answer.

Each entity lives at one of 48 places. With probability `graded_evidence` it has that place's value of an
attribute. With the same probability a relation leads from place p to one of the places 3 p, 3 p + 1, 3 p + 2
(mod 48), each equally likely. So at 1 a document leaves 27 possible values for the answer three relations
away, 9 for two and 3 for one: belief trebles with each document on the path, as in natural text, where each
document says something about the next. At 0 there are no places, and a document says nothing about another.
"""

from __future__ import annotations

import numpy as np

from envs.errors import InputError
from envs.world.words import VALUES

PLACES = len(next(iter(VALUES.values())))
"""As many as an attribute has values: the value's index is its place."""
BRANCHES = 3
"""Places that a relation leads to from each place. After a document, a power of it is the number of values
that the answer can still have."""


def draw_places(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the place of each of `count` entities, int64 [W]; all places get equally many, give or take one.

    Raises:
        InputError: a place would be empty.
    """
    if count < PLACES:
        raise InputError(
            f"world.graded_evidence needs at least {PLACES} entities, got {count}: raise world.entities"
        )
    return rng.permutation(count) % PLACES


def relate_by_place(
    others_WJ: np.ndarray, places_W: np.ndarray, grade: float, rng: np.random.Generator
) -> np.ndarray:
    """Redraws a share `grade` of the relations among the places that the entity's place leads to.

    Args:
        others_WJ: the entity that each relation leads to, int64.
        places_W: the place of each entity.
        grade: the share, in [0, 1].
        rng: decides which entries, and the new ones.

    Returns:
        A new array like `others_WJ`. No entity is related to itself.
    """
    related_WJ = others_WJ.copy()
    for entity, relation in np.argwhere(_chosen(others_WJ.shape, grade, rng)):
        branch = np.flatnonzero(places_W == (BRANCHES * places_W[entity] + rng.integers(BRANCHES)) % PLACES)
        branch = branch[branch != entity]
        if len(branch):
            related_WJ[entity, relation] = branch[rng.integers(len(branch))]
    return related_WJ


def resemble_place(
    values_WA: np.ndarray, places_W: np.ndarray, grade: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns a copy of `values_WA` in which a share `grade` of the entries is the value of the entity's
    place.
    """
    return np.where(_chosen(values_WA.shape, grade, rng), places_W[:, None], values_WA)


def _chosen(shape: tuple[int, ...], grade: float, rng: np.random.Generator) -> np.ndarray:
    """Chooses a random share `grade` of the entries, bool. Integer draws are the same on every machine."""
    return rng.integers(0, 1_000_000, size=shape) < round(grade * 1_000_000)
