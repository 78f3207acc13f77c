"""Loading with the collector at rest."""

import gc
import subprocess
import sys

import pytest

from envs.loading import keep_loaded, without_collecting


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


def test_what_is_loaded_is_left_out_of_later_collections():
    loaded = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    try:
        keep_loaded()
        assert gc.get_freeze_count() >= before + len(loaded)
        assert not any(thing is loaded for thing in gc.get_objects())
    finally:
        gc.unfreeze()


def test_what_was_left_out_is_no_leak_at_the_end():
    """Extensions made with nanobind, as DuckDB's, list on stderr what the interpreter's end leaves."""
    code = "import duckdb\nfrom envs.loading import keep_loaded\nduckdb.sql('SELECT 1')\nkeep_loaded()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
