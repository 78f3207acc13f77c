"""The base of settings: nested ones under dotted keys."""

import pytest

from envs.settings import Settings, dotted


class _Section(Settings):
    count: int = 1
    share: float = 1.0
    most: int | None = None
    on: bool = False


def test_nested_settings_have_dotted_keys():
    nested = {"lr": 1e-6, "env": {"world": {1: 0.5}, "tools": [{"name": "a"}]}, "engine": {}, "seed": None}
    assert dotted(nested) == {
        "lr": 1e-6, "env.world.1": 0.5, "env.tools": [{"name": "a"}], "engine": {}, "seed": None
    }  # fmt: skip
    assert dotted({}) == {}


@pytest.mark.parametrize("given", [{"count": True}, {"share": False}, {"most": True}])
def test_a_truth_value_is_no_number(given):
    with pytest.raises(ValueError, match="it must be a number, not true or false"):
        _Section(**given)


def test_numbers_and_truth_values_are_taken_where_they_belong():
    given = _Section(count=2, share=0.5, most=None, on=True)
    assert given.model_dump() == {"count": 2, "share": 0.5, "most": None, "on": True}
