"""The code of the parts of one's own that a configuration names, by a hash of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from envs.user_code import code_hash, import_function

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def own_code(config: IGPOConfig) -> dict[str, str]:
    """Returns the hash of the code of each part of one's own, by its import path.

    Raises:
        InputError: one cannot be imported.
    """
    found: dict[str, str] = {}
    for what, path in named_parts(config.search_settings.model_dump(), config.preset):
        if what == "estimator":
            _ = config.preset_settings  # which imports it
        else:
            import_function(path, what)
        found[path] = code_hash(path)
    return found


def changed_parts(run: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Finds the parts of one's own whose code is not what a run began with.

    Args:
        run: the run's metadata (`run.json`).
        now: the hash of the code of each part as it is now, by import path.
    """
    began = run.get("own_code", {})
    return [path for path, code in now.items() if began.get(path, code) != code]


def named_parts(env: Mapping[str, Any], preset: object) -> list[tuple[str, str]]:
    """Finds the parts of one's own that an experiment names: what each is, and its import path.

    Args:
        env: keys of `env_config`, which may be of any type: they are read before they are checked.
        preset: the key `preset`.
    """
    retriever, tools = env.get("retriever"), env.get("tools")
    named = [
        ("retriever", retriever.get("kind") if isinstance(retriever, Mapping) else None),
        *((key, env.get(key)) for key in ("protocol", "outcome", "next_speaker")),
        *(("tool", tool) for tool in (tools if isinstance(tools, list) else ())),
        ("estimator", preset),
    ]
    return [(what, path) for what, path in named if isinstance(path, str) and ":" in path]
