"""IGPO as an RLlib algorithm: configuration, training step, belief scoring, learner, model, push of weights.

`IGPO` and `IGPOConfig` are imported when they are first asked for, because they import Ray. The package alone
imports neither Ray nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from algorithms.igpo.algorithm import IGPO
    from algorithms.igpo.config import IGPOConfig

__all__ = ["IGPO", "IGPOConfig"]


def __getattr__(name: str) -> Any:
    if name == "IGPO":
        from algorithms.igpo.algorithm import IGPO

        return IGPO
    if name == "IGPOConfig":
        from algorithms.igpo.config import IGPOConfig

        return IGPOConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
