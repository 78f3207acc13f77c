"""Settings under their old names. They are accepted for one release; this module then goes."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

RENAMED = {"scorer": "belief_policy", "scoring": "belief_method"}
"""Old name to new name."""


class RenamedSetting:
    """The old name of a setting, as a class attribute: reads and writes the setting under its new name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else getattr(config, RENAMED[self._old])

    def __set__(self, config: Any, value: Any) -> None:
        if value is not None:  # the configuration file of an old run names every setting, most of them null
            _warn(self._old)
        setattr(config, RENAMED[self._old], value)


def with_new_names(state: dict[str, Any]) -> dict[str, Any]:
    """Replaces the old names among the attributes of a stored configuration."""
    return {RENAMED.get(name, name): value for name, value in state.items()}


@cache
def _warn(old: str) -> None:
    logger.warning(
        "the setting `%s` is now called `%s`; the next release will not know the old name", old, RENAMED[old]
    )
