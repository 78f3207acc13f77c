"""A torch learner that may be one of several: each has a copy of the model (DDP, as RLlib does it) or a slice
of it (FSDP2).

A model that is spread is cut up before it reaches the device, where it may not fit. Whatever leaves the
learners is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.numpy import convert_to_numpy
from torch.utils._pytree import tree_map_only

from algorithms.igpo.model.fsdp import shard, slice_of, whole

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


class DistributedLearner(TorchLearner):
    """Reads from the config: `num_learners`, `shard_learner`."""

    config: IGPOConfig
    _device: torch.device

    def build(self) -> None:
        self._staged: dict[str, Any] | None = None
        super().build()

    def _make_module(self):
        if not self.config.shard_learner:
            return super()._make_module()
        module = super(TorchLearner, self)._make_module()  # not yet on the device: it may not fit there whole
        for module_id in module.keys():  # noqa: SIM118 (not a dict)
            shard(module[module_id], self._device)
        return module

    def _make_modules_ddp_if_necessary(self) -> None:
        if not self.config.shard_learner:
            super()._make_modules_ddp_if_necessary()

    def over_learners(self, values: list[float], how: str) -> list[float]:
        """Sum or maximum (`how`: "sum" or "max") of each value over all learners, which must all
        ask for it.
        """
        if self.config.num_learners <= 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        operation = torch.distributed.ReduceOp.SUM if how == "sum" else torch.distributed.ReduceOp.MAX
        torch.distributed.all_reduce(tensor, op=operation)
        return tensor.tolist()

    def stage_state(self) -> None:
        """Sharded learners put their whole state together: every learner must call it before RLlib asks one
        of them.
        """
        state = self.get_state(gather=True)
        self._staged = state if self._learner_index == 0 else None

    def get_state(
        self, components=None, *, not_components=None, gather: bool = False, **kwargs
    ) -> dict[str, Any]:
        """RLlib's. Sharded learners put it together with `gather`, which all of them must ask for; without
        it, the first one gives what `stage_state` left, once.
        """
        if self.config.shard_learner and not gather:
            if self._staged is None:
                raise RuntimeError(
                    "the learners are sharded: call stage_state on every one before asking for the state"
                )
            staged, self._staged = self._staged, None
            return staged
        return super().get_state(components, not_components=not_components, **kwargs)

    def _get_optimizer_state(self) -> dict[str, Any]:
        if not self.config.shard_learner:
            return super()._get_optimizer_state()
        return {
            name: {
                "module_id": self._optimizer_name_to_module[name],
                "state": convert_to_numpy(tree_map_only(torch.Tensor, whole, optimizer.state_dict())),
            }
            for name, optimizer in self._named_optimizers.items()
        }

    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        super()._set_optimizer_state(state)
        for optimizer in self._named_optimizers.values():
            for param, moments in optimizer.state.items():
                for name, moment in moments.items():
                    if moment.shape == param.shape:
                        moments[name] = slice_of(moment, param)
