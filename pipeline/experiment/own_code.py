"""The code of the parts of one's own that a configuration names, by a hash of each file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.user_code import code_hash, import_function

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def own_code(config: IGPOConfig) -> dict[str, str]:
    """Returns the hash of the file of each part of one's own, by its import path.

    Raises:
        InputError: one cannot be imported.
    """
    settings = config.search_settings
    parts = {
        "retriever": [settings.retriever.kind],
        "protocol": [settings.protocol],
        "outcome": [settings.outcome],
        "next_speaker": [settings.next_speaker or ""],
        "tool": settings.tools,
    }
    found: dict[str, str] = {}
    for what, paths in parts.items():
        for path in paths:
            if ":" in path:
                import_function(path, what)
                found[path] = code_hash(path)
    if ":" in config.preset:
        found[config.preset] = config.preset_settings.code_hash
    return found
