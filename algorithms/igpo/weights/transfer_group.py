"""`TransferGroup`: the participants of a transfer of weights from GPU to GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.actor import ActorHandle


@dataclass(frozen=True)
class TransferGroup:
    """The engines that the first learner sends weights to."""

    name: str
    """Unique; tells an engine whether it already belongs to this group."""
    runners: tuple[ActorHandle, ...]
    """The env runners."""
    policies: tuple[str, ...]
    """Ids of the policies. Every runner has one engine for each."""
    engine_size: int
    """Processes of one engine, each with a GPU of its own."""
