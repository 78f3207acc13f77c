"""Graded evidence: what places do to attributes and relations."""

import numpy as np

from envs.world.config import WorldSettings
from envs.world.evidence import BRANCHES, PLACES
from envs.world.world import build_world


def test_at_1_attributes_tell_the_place_and_relations_its_branches():
    world = build_world(WorldSettings(graded_evidence=1.0))
    places_N = world.values_NA[:, 0]
    assert np.all(world.values_NA == places_N[:, None])
    steps_NR = (places_N[world.relations_NR] - BRANCHES * places_N[:, None]) % PLACES
    assert set(steps_NR.ravel().tolist()) == set(range(BRANCHES))
