"""Loading with the collector at rest."""

import gc

import pytest

from envs.loading import without_collecting


def test_the_collector_rests_and_goes_on():
    assert gc.isenabled()
    with without_collecting():
        assert not gc.isenabled()
        with without_collecting():
            pass
        assert not gc.isenabled(), "the inner block leaves it to the outer one"
    assert gc.isenabled()
    with pytest.raises(KeyError), without_collecting():
        raise KeyError
    assert gc.isenabled()
