"""Loading with the collector at rest, and imports beside a wait."""

import gc
import sys

import pytest

from envs.loading import imported_meanwhile, without_collecting


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


def test_modules_are_there_after_the_wait(tmp_path, monkeypatch):
    (tmp_path / "needed_soon.py").write_text("import needed_too")
    (tmp_path / "needed_too.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with imported_meanwhile("needed_soon"):
        pass
    assert sys.modules.pop("needed_soon") and sys.modules.pop("needed_too")


def test_a_missing_module_is_told_after_the_wait():
    waited = []
    with pytest.raises(ImportError, match="no_such_module"), imported_meanwhile("no_such_module"):
        waited.append(1)
    assert waited == [1]


def test_what_the_block_raises_comes_first():
    with pytest.raises(KeyboardInterrupt), imported_meanwhile("no_such_module"):
        raise KeyboardInterrupt
