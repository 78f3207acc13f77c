"""A torch learner that may be one of several: each has a copy of the model or a shard of it (FSDP2).

Copies are trained on the sum of all learners' gradients. torch's DDP, in which RLlib would wrap them, keeps
that sum on the device for good, as large as all gradients, also while an engine has the device.

A model is sharded before it reaches the device, where the full one may not fit. Only full tensors leave the
learners. With `offload_optimizer`, the optimizer state is on the device only during a step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.numpy import convert_to_numpy
from torch.utils._pytree import tree_map_only

from algorithms.igpo.model.fsdp import first_reads, full_tensor, shard, shard_like

HOST = torch.device("cpu")


class DistributedLearner(TorchLearner):
    """Reads from the config: `num_learners`, `shard_learner`, `offload_optimizer`."""

    config: Any
    """An `IGPOConfig`, which imports the learner: named here, it would close a circle."""
    _device: torch.device

    @override(TorchLearner)
    def build(self) -> None:
        self._staged: dict[str, Any] | None = None
        super().build()

    @override(TorchLearner)
    def _make_module(self):
        if not self.config.shard_learner:
            return super()._make_module()
        # Skip TorchLearner's version, which moves the full module to the device, where it may not fit.
        with first_reads(self._device):
            module = super(TorchLearner, self)._make_module()
        for module_id in module.keys():  # noqa: SIM118 (not a dict)
            shard(module[module_id], self._device)
        return module

    @property
    def _has_copies(self) -> bool:
        """Whether this learner's model is one of several copies."""
        return self.config.num_learners > 1 and not self.config.shard_learner

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Makes copies equal to the first learner's, and wraps none: new adapters are drawn by each."""
        for module_id in sorted(self.module.keys()) if self._has_copies else ():
            module: Any = self.module[module_id]
            for parameter in module.parameters():
                if parameter.requires_grad:
                    torch.distributed.broadcast(parameter.detach(), src=0)

    def add_up_gradients(self, module: torch.nn.Module) -> None:
        """Gives every copy of `module` the sum of all learners' gradients (a collective call)."""
        for parameter in module.parameters() if self._has_copies else ():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)

    def over_learners(self, values: list[float], how: str) -> list[float]:
        """Reduces each value over all learners (a collective call): `how` is "sum" or "max"."""
        if self.config.num_learners <= 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        operation = torch.distributed.ReduceOp.SUM if how == "sum" else torch.distributed.ReduceOp.MAX
        torch.distributed.all_reduce(tensor, op=operation)
        return tensor.tolist()

    @override(TorchLearner)
    def postprocess_gradients_for_module(self, *, module_id, config=None, module_gradients_dict):
        """Clips gradients as RLlib does. RLlib does not know sharded gradients; those are clipped here."""
        if not module_gradients_dict:
            return module_gradients_dict
        if not self.config.shard_learner:
            return super().postprocess_gradients_for_module(
                module_id=module_id, config=config, module_gradients_dict=module_gradients_dict
            )
        if config.grad_clip is not None:
            gradients = list(module_gradients_dict.values())
            torch._foreach_mul_(gradients, min(1.0, config.grad_clip / (gradient_norm(gradients) + 1e-6)))
        return module_gradients_dict

    def stage_state(self) -> None:
        """Gathers the full state of sharded learners.

        Every learner must call it before RLlib asks one of them for its state.
        """
        state = self.get_state(gather=True)
        self._staged = state if self._learner_index == 0 else None

    @override(TorchLearner)
    def get_state(
        self,
        components=None,
        *,
        not_components=None,
        inference_only: bool = False,
        gather: bool = False,
        **kwargs,
    ) -> dict[str, Any]:
        """Returns RLlib's state.

        Args:
            inference_only: the weights for the engines. RLlib asks for them to send them through the driver;
                without `gather` they are left out, because `IGPO.push_weights` sends them.
            gather: sharded learners gather the full state now (a collective call). Without it, the first
                learner returns the state that `stage_state` gathered, once.
        """
        if inference_only and not gather:
            return {WEIGHTS_SEQ_NO: self._weights_seq_no}
        if self.config.shard_learner and not gather:
            if self._staged is None:
                raise RuntimeError(
                    "the learners are sharded: call stage_state on every one before asking for the state"
                )
            staged, self._staged = self._staged, None
            return staged
        return super().get_state(
            components, not_components=not_components, inference_only=inference_only, **kwargs
        )

    @override(TorchLearner)
    def restore_from_path(self, path, **kwargs) -> None:
        """Restores as RLlib does. Sharded learners take turns, because each reads the whole state."""
        if not self.config.shard_learner:
            super().restore_from_path(path, **kwargs)
            return
        failure = None
        for turn in range(self.config.num_learners):
            if turn == self._learner_index:
                try:
                    super().restore_from_path(path, **kwargs)
                except Exception as error:  # raised when the others, who would wait for it, had theirs
                    failure = error
            self.over_learners([0.0], "sum")  # waits for the turn's end
        if failure is not None:
            raise failure

    @override(TorchLearner)
    def _get_optimizer_state(self) -> dict[str, Any]:
        if not self.config.shard_learner:
            return super()._get_optimizer_state()
        return {
            name: {
                "module_id": self._optimizer_name_to_module[name],
                "state": convert_to_numpy(
                    tree_map_only(torch.Tensor, self._gathered, optimizer.state_dict())
                ),
            }
            for name, optimizer in self._named_optimizers.items()
        }

    def _gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """Gathers a tensor into the first learner's host memory. Others get an empty one."""
        full = full_tensor(tensor)
        return full.to("cpu", copy=True) if self._learner_index == 0 else torch.empty(0)

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        if self.config.shard_learner:
            state = {name: self._sharded(name, saved) for name, saved in state.items()}
        super()._set_optimizer_state(state)
        for optimizer in self._named_optimizers.values():
            for state_of_param in optimizer.state.values():
                for name, value in state_of_param.items():
                    # On a CPU it may lie in Ray's object store, which the learners of a node share: each of
                    # them would step in the same moments.
                    state_of_param[name] = value.clone()
        if self.config.offload_optimizer:
            move_optimizer_state(self._named_optimizers.values(), HOST)

    def _sharded(self, name: str, saved: dict[str, Any]) -> dict[str, Any]:
        """Shards an optimizer's saved state, one tensor at a time, as its parameters are sharded."""
        params = [param for group in self._named_optimizers[name].param_groups for param in group["params"]]
        of_params = {
            index: {
                key: shard_like(torch.as_tensor(array), params[index])
                if np.shape(array) == params[index].shape
                else array
                for key, array in arrays.items()
            }
            for index, arrays in saved["state"]["state"].items()
        }
        return {**saved, "state": {**saved["state"], "state": of_params}}


def gradient_norm(gradients: list[torch.Tensor]) -> float:
    """Computes the norm of all gradients together, of the full ones where sharded (a collective call)."""
    return float(full_tensor(torch.nn.utils.get_total_norm(gradients)))


def move_optimizer_state(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """Moves the state that `optimizers` keep of each parameter."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[name] = value.to(device)


@contextmanager
def optimizer_state_on(device: torch.device, optimizers: Iterable[torch.optim.Optimizer]) -> Generator[None]:
    """Keeps the state of `optimizers` on `device` in the context, and in host memory afterwards."""
    move_optimizer_state(optimizers, device)
    yield
    move_optimizer_state(optimizers, HOST)
