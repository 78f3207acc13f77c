"""One base in memory for all RLModules that are adapters of it.

Each module has a model of its own, so that its adapters, its switch and its wrapper are its own. The models
hold the same parameters, apart from the adapters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils.annotations import override

_loaded: ContextVar[dict[tuple, Any] | None] = ContextVar("loaded bases", default=None)


class ModulesOfOneBase(MultiRLModule):
    """RLlib's MultiRLModule for modules that call `shared` in their `setup`."""

    @override(MultiRLModule)
    def setup(self):
        token = _loaded.set({})
        try:
            super().setup()
        finally:
            _loaded.reset(token)


def shared(load: Callable[..., Any], *arguments: Any) -> Any:
    """Loads a model once for all modules of a `ModulesOfOneBase`.

    Args:
        load: returns a torch module.
        arguments: what it is called with; modules with equal ones share the parameters.

    Returns:
        A model of the caller's own, with the shared parameters and buffers.

    Raises:
        RuntimeError: no `ModulesOfOneBase` is being set up.
    """
    loaded = _loaded.get()
    if loaded is None:
        raise RuntimeError("only the modules of a ModulesOfOneBase share a base")
    if arguments not in loaded:
        loaded[arguments] = load(*arguments)
    model = loaded[arguments]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
