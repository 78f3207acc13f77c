"""`LoraSettings`: `lora:` of an experiment file. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from envs.settings import Settings


class LoraSettings(Settings):
    """`lora:` of an experiment file."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float | None = Field(
        None, gt=0, description="the adapters' product is scaled by alpha / rank; None: twice the rank"
    )
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear",
        description="names of the layers that get adapters, such as [q_proj, v_proj]; all but the output "
        "head",
    )
