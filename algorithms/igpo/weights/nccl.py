"""The learner's end of vLLM's weight transfer by NCCL (`engine.weight_transfer: nccl`): weights go from GPU
to GPU.

For each policy, the first learner (rank 0) and every process of every engine of that policy form a group.
vLLM's own classes form it and broadcast (`vllm.distributed.weight_transfer`). They ask two things of a
trainer, which this module provides: its weights one by one, and a way to call the engines. Import it only
where it is used, because it imports vLLM.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.utils.network_utils import get_open_port

from algorithms.igpo.model.causal_lm import HFCausalLM
from algorithms.igpo.remote import with_traceback
from algorithms.igpo.weights.transfer_group import TransferGroup


class PolicyWeights(WeightSource):
    """A policy's weights in its engines' precision. Sharded learners must iterate it together."""

    def __init__(self, module: HFCausalLM):
        self._module = module
        self._metadata: list[ParamMeta] | None = None

    def metadata(self) -> list[ParamMeta]:
        if self._metadata is None:
            self._metadata = [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._module.engine_weights()

    @property
    def num_bytes(self) -> int:
        return sum(meta.dtype.itemsize * torch.Size(meta.shape).numel() for meta in self.metadata())


class Engines:
    """The engines of `policy`, one in each env runner: vLLM's trainer calls them through this class (its
    `VLLMWeightSyncClient`).
    """

    def __init__(self, group: TransferGroup, policy: str):
        self._group, self._policy = group, policy
        self.version = 0
        """Version of the weights that are being sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Gives each engine a copy of vLLM's `init_info` (for one engine) with its own `rank_offset`."""
        size, first = self._group.engine_size, init_info["rank_offset"]
        infos = [{**init_info, "rank_offset": first + k * size} for k in range(len(self._group.runners))]
        self._call("init_weight_transfer_engine", [(info, self._group.name) for info in infos])

    def start_weight_update(self) -> None:
        self._call("start_weight_update", [()] * len(self._group.runners))

    def update_weights(self, update_info: Any) -> None:
        self._call("update_weights", [(update_info,)] * len(self._group.runners))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_weight_update", [(self.version,)] * len(self._group.runners))

    def _call(self, method: str, arguments: list[tuple]) -> None:
        calls = [
            runner.apply.remote(_call_engine, self._policy, method, own)
            for runner, own in zip(self._group.runners, arguments, strict=True)
        ]
        for error in ray.get(calls):
            if error is not None:
                raise with_traceback(f"{method} failed in an env runner", error)


def _call_engine(runner, policy: str, method: str, arguments: tuple) -> str | None:
    try:
        getattr(runner.loop.engines[policy], method)(*arguments)
    except Exception:  # crosses the process boundary as text: RLlib would end the runner and lose it
        return traceback.format_exc()


class WeightSender:
    """Sends a learner's weights to the engines.

    Sharded learners call it together; the first one sends.

    Args:
        module_of: returns the module of a policy.
        rank: the learner's index; 0 sends.
        device: the learner's device.
    """

    def __init__(self, module_of: Callable[[str], HFCausalLM], rank: int, device: torch.device):
        self._module_of, self._rank, self._device = module_of, rank, device
        self._group_name = ""
        self._routes: list[tuple[PolicyWeights, Engines, TrainerWeightTransferEngine]] = []

    def send(self, group: TransferGroup, version: int) -> int:
        """Sends the weights, after forming `group` if it is new.

        Returns:
            Bytes sent, once every engine holds them as `version`.
        """
        with torch.accelerator.device_index(self._device.index), torch.no_grad():
            if group.name != self._group_name:
                self._form(group)
            if self._device.type == "cuda":  # vLLM reads them on streams that do not wait
                torch.cuda.synchronize(self._device)
            for _, engines, trainer in self._routes:
                engines.version = version
                trainer.send_weights()
        return sum(weights.num_bytes for weights, _, _ in self._routes)

    def _form(self, group: TransferGroup) -> None:
        for _, _, trainer in self._routes:
            trainer.shutdown()
        self._routes, self._group_name = [], ""
        for policy in group.policies:
            weights, engines = PolicyWeights(self._module_of(policy)), Engines(group, policy)
            info = NCCLTrainerInitInfo(
                rank=self._rank,
                master_address=ray.util.get_node_ip_address(),
                master_port=get_open_port(),
                world_size=1 + len(group.runners) * group.engine_size,
            )
            trainer = WeightTransferTrainerFactory.trainer_init(info, client=engines, source=weights)
            self._routes.append((weights, engines, trainer))
        self._group_name = group.name
