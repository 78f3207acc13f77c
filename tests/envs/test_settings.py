"""The base of settings: nested ones under dotted keys."""

from envs.settings import dotted


def test_nested_settings_have_dotted_keys():
    nested = {"lr": 1e-6, "env": {"world": {1: 0.5}, "tools": [{"name": "a"}]}, "engine": {}, "seed": None}
    assert dotted(nested) == {
        "lr": 1e-6, "env.world.1": 0.5, "env.tools": [{"name": "a"}], "engine": {}, "seed": None
    }  # fmt: skip
    assert dotted({}) == {}
