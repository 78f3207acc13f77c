"""The belief of an ideal reader, who knows how the world is generated but none of its facts."""

from __future__ import annotations

import numpy as np

from envs.world.chain import Chain
from envs.world.evidence import BRANCHES, PLACES
from envs.world.facts import Facts


def belief_path(facts: Facts, chain: Chain) -> list[float]:
    """Returns belief in the gold answer after 0, 1, ... gold documents.

    Bayes' rule over the places along the chain: the attributes in a document tell its entity's place, a
    relation leads to the place's branches with probability `graded_evidence`, and a place tells the values of
    its people. The last document states the answer, so the last belief is 1.

    At `graded_evidence` 1 and three hops the path is 1/48, 1/9, 1/3, 1: the first document says which 9
    places, and so which 9 values, lie two relations away, the second which 3.

    Returns:
        `chain.hops` + 1 beliefs, each in [0, 1].
    """
    grade, path = facts.settings.graded_evidence, facts.path(chain)
    chance_XX = grade * np.eye(PLACES) + (1 - grade) / PLACES
    lead_XX = np.full((PLACES, PLACES), (1 - grade) / PLACES)
    for place in range(PLACES):
        lead_XX[place, (BRANCHES * place + np.arange(BRANCHES)) % PLACES] += grade / BRANCHES
    gold = facts.values_WA[path[-1], chain.attribute]
    place_X = np.full(PLACES, 1 / PLACES)
    beliefs = []
    for hops_read in range(chain.hops):
        if hops_read:
            place_X = place_X @ lead_XX if hops_read > 1 else place_X
            place_X = place_X * np.prod(chance_XX[:, facts.values_WA[path[hops_read - 1]]], axis=1)
            place_X /= place_X.sum()
        ahead = chain.hops - max(hops_read, 1)
        beliefs.append(float(place_X @ np.linalg.matrix_power(lead_XX, ahead) @ chance_XX[:, gold]))
    return [*beliefs, 1.0]
