"""Which policies have adapters, which of them share a base, and which an engine serves. Imports no torch.

A policy has adapters where `lora` is set for it, by itself or for all. Two or more such policies share one
base on each learner, and, unless `engine.adapters` is `merged`, one engine in each env runner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envs.engine.base import EngineSettings
from envs.engine.lora import LoraSettings, served_rank, served_targets
from envs.errors import InputError


@dataclass(frozen=True)
class Adapters:
    """The adapters of a run's policies."""

    by_policy: dict[str, LoraSettings]
    """The policies that have adapters, sorted."""
    serves: bool
    """Whether an engine may serve several."""

    @classmethod
    def of(
        cls,
        policies: Iterable[str],
        common: dict[str, Any] | None,
        own: Mapping[str, Mapping[str, Any]],
        engine: EngineSettings,
    ) -> Adapters:
        """Reads them from settings.

        Args:
            policies: ids of the policies.
            common: `lora`, for every policy without its own.
            own: {policy id: settings of it alone}, of which `lora` is read; None there: no adapters.
            engine: the engines' settings.

        Raises:
            ValueError: settings of adapters that `LoraSettings` refuses.
        """
        given = {policy: own.get(policy, {}).get("lora", common) for policy in sorted(policies)}
        return cls(
            {p: LoraSettings(**lora) for p, lora in given.items() if lora is not None}, engine.serves_adapters
        )

    @property
    def sharing(self) -> list[str]:
        """The policies that share a base: all with adapters, where there are two or more."""
        return list(self.by_policy) if len(self.by_policy) > 1 else []

    @property
    def served(self) -> dict[str, LoraSettings]:
        """The policies that share an engine."""
        return {policy: self.by_policy[policy] for policy in self.sharing} if self.serves else {}

    def model_config(self, policy: str) -> dict[str, Any]:
        """Keys of `HFCausalLM`'s `model_config` for `policy`."""
        lora = self.by_policy.get(policy)
        return {
            "lora": None if lora is None else lora.model_dump(),
            "shares_base": policy in self.sharing,
            "serves_adapters": policy in self.served,
        }

    def check(self, engine: EngineSettings) -> None:
        """Raises InputError where the engines cannot do what is asked of them."""
        if engine.adapters is not None and not self.sharing:
            raise InputError(
                f"engine.adapters {engine.adapters} has no effect here: it is about two or more policies "
                "with `lora`; leave it out"
            )
        if not self.served:
            return
        served_rank(self.served), served_targets(self.served)
        if engine.weight_transfer == "nccl":
            raise InputError(
                "engine.weight_transfer nccl sends whole models, and an engine that serves adapters gets "
                "only these: use shared_memory, or set engine.adapters to merged"
            )
