"""The learner's end of vLLM's weight transfer by NCCL (`engine.weight_transfer: nccl`): weights go from GPU
to GPU.

For each policy there is a group of the first learner (rank 0) and every process of every engine of that
policy. vLLM's own classes form it and broadcast (`vllm.distributed.weight_transfer`); here is what they ask
of a trainer: its weights one by one, and a way to call the engines. Imported only where it is used, as it
imports vLLM.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
import torch
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.utils.network_utils import get_open_port

from algorithms.igpo.model.causal_lm import HFCausalLM
from algorithms.igpo.weights.transfer_group import TransferGroup

if TYPE_CHECKING:
    from algorithms.igpo.learner.learner import IGPOTorchLearner


class PolicyWeights(WeightSource):
    """A policy's weights as its engines hold them. Sharded learners must iterate it together."""

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
    """The engines of `policy`, one in each env runner, as vLLM's trainer calls them (its
    `VLLMWeightSyncClient`).
    """

    def __init__(self, group: TransferGroup, policy: str):
        self._group, self._policy = group, policy
        self.version = 0
        """Version of the weights that are being sent."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """vLLM's `init_info` is for one engine, whose processes count from `rank_offset`: each engine gets
        its own.
        """
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
                raise RuntimeError(f"{method} failed in an env runner:\n{error}")


def _call_engine(runner, policy: str, method: str, arguments: tuple) -> str | None:
    try:
        getattr(runner.loop.engines[policy], method)(*arguments)
    except Exception:  # crosses the process boundary as text: RLlib would end the runner and lose it
        return traceback.format_exc()


class WeightSender:
    """Sends the weights of `learner` to the engines.

    Learners that share one model call it together; the first one sends.
    """

    def __init__(self, learner: IGPOTorchLearner):
        self._learner = learner
        self._group_name = ""
        self._routes: list[tuple[PolicyWeights, Engines, TrainerWeightTransferEngine]] = []

    def send(self, group: TransferGroup, version: int) -> int:
        """Returns the bytes sent, once every engine holds them as `version`.

        Forms `group` where it is a new one.
        """
        with torch.accelerator.device_index(self._learner._device.index), torch.no_grad():
            if group.name != self._group_name:
                self._form(group)
            for _, engines, trainer in self._routes:
                engines.version = version
                trainer.send_weights()
        return sum(weights.num_bytes for weights, _, _ in self._routes)

    def _form(self, group: TransferGroup) -> None:
        for _, _, trainer in self._routes:
            trainer.shutdown()
        self._routes, self._group_name = [], ""
        for policy in group.policies:
            weights, engines = PolicyWeights(self._learner._hugging_face(policy)), Engines(group, policy)
            info = NCCLTrainerInitInfo(
                rank=self._learner._learner_index or 0,
                master_address=ray.util.get_node_ip_address(),
                master_port=get_open_port(),
                world_size=1 + len(group.runners) * group.engine_size,
            )
            trainer = WeightTransferTrainerFactory.trainer_init(info, client=engines, source=weights)
            self._routes.append((weights, engines, trainer))
        self._group_name = group.name


def sender_of(learner: Any) -> WeightSender:
    """The learner's own, which keeps its groups from push to push; made where it is first asked for."""
    if not hasattr(learner, "weight_sender"):
        learner.weight_sender = WeightSender(learner)
    return learner.weight_sender
