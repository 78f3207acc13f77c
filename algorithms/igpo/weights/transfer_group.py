"""Who takes part in a transfer of weights from GPU to GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class TransferGroup:
    """The first learner and the engines that it sends weights to."""

    name: str
    runners: tuple[ActorHandle, ...]
    policies: tuple[str, ...]
    """One engine each in every runner."""
    engine_size: int
    """Processes, with a GPU each, of one engine."""
