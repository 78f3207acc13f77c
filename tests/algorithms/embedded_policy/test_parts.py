"""What the warm start's batches are put together from."""

import numpy as np
import pytest

from algorithms.embedded_policy.__main__ import main
from algorithms.embedded_policy.parts import Parts
from algorithms.embedded_policy.sequences import SequenceMaker
from algorithms.embedded_policy.trainer import GRADED, WarmStartSettings
from envs.search.protocols.tiny import TinyProtocol, build_tokenizer
from envs.world.config import WorldSettings
from envs.world.words import vocabulary
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


def test_every_part_of_every_recipe_is_made(parts):
    names = {
        name
        for settings in (WarmStartSettings(), GRADED)
        for phase in settings.phases
        for name in phase.parts
    }
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


def test_the_graded_recipe_needs_a_policy_to_start_from(tmp_path, capsys):
    assert main(["--graded", "--out", str(tmp_path / "x")]) == 2
    assert "--start" in capsys.readouterr().out
