"""Graded evidence: what places do to attributes and relations."""

import numpy as np

from envs.world.config import WorldSettings
from envs.world.evidence import BRANCHES, PLACES
from envs.world.world import build_world


def test_at_1_attributes_tell_the_place_and_relations_its_branches():
    world = build_world(WorldSettings(graded_evidence=1.0))
    places_W = world.values_WA[:, 0]
    assert np.all(world.values_WA == places_W[:, None])
    steps_WJ = (places_W[world.relations_WJ] - BRANCHES * places_W[:, None]) % PLACES
    assert set(steps_WJ.ravel().tolist()) == set(range(BRANCHES))
