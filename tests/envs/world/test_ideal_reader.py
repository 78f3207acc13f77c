"""The belief of an ideal reader along the gold documents."""

import numpy as np
import pytest

from envs.world.config import WorldSettings
from envs.world.ideal_reader import belief_path
from envs.world.world import build_world


def test_graded_evidence_narrows_the_answer_on_the_way():
    def mean_path(grade, hops):
        world = build_world(
            WorldSettings(graded_evidence=grade, hops={hops: 1.0}, train_questions=200, heldout_questions=100)
        )
        return np.mean([belief_path(world, chain) for chain in world.chains("heldout")], axis=0)

    np.testing.assert_allclose(mean_path(0.0, 3), [1 / 48, 1 / 48, 1 / 48, 1.0])
    for hops in (2, 3, 4):
        path = mean_path(0.9, hops)
        assert path[0] == pytest.approx(1 / 48) and path[-1] == 1.0
        assert np.all(np.diff(path) > 0.004), path
    # With certainty a relation leaves three places of each, so the documents of four hops leave 27 values, 9,
    # 3 and 1.
    np.testing.assert_allclose(mean_path(1.0, 4), [1 / 48, 1 / 27, 1 / 9, 1 / 3, 1.0], atol=1e-9)
    np.testing.assert_allclose(mean_path(1.0, 2), [1 / 48, 1 / 3, 1.0], atol=1e-9)
