"""`engine.weight_transfer: nccl` without a GPU: vLLM's own classes at both ends, gloo in place of NCCL.

`use_gloo` replaces three things in the processes of learner and engines: the communicator, CUDA's streams
(vLLM has stand-ins for its CPU engines) and the index of the current device.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from ray.rllib.utils.annotations import override

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner.learner import IGPOTorchLearner
from envs.runner.env_runner import IGPOEnvRunner


class GlooCommunicator:
    """The part of vLLM's `PyNcclCommunicator` that its weight transfer uses."""

    def __init__(self, address, port, rank, world_size, device):
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        self.rank, self.world_size = rank, world_size
        self.group = stateless_init_torch_distributed_process_group(
            address, port, rank, world_size, backend="gloo"
        )

    def broadcast(self, tensor, src, stream=None):
        options = torch.distributed.BroadcastOptions()
        options.rootRank = src
        self.group.broadcast([tensor], options).wait()

    def destroy(self):
        self.group = None


def use_gloo():
    """In this process."""
    import vllm.v1.worker.cpu.shm  # noqa: F401 (its stand-ins for streams)
    from vllm.distributed.weight_transfer import nccl_common, packed_tensor

    nccl_common.stateless_init_process_group = GlooCommunicator
    packed_tensor._get_streams = lambda device_index, count: [torch.cuda.Stream() for _ in range(count)]
    torch.accelerator.current_device_index = lambda: 0


class GlooLearner(IGPOTorchLearner):
    @override(IGPOTorchLearner)
    def build(self):
        use_gloo()
        super().build()


class GlooEnvRunner(IGPOEnvRunner):
    def __init__(self, **kwargs):
        use_gloo()
        super().__init__(**kwargs)


class GlooConfig(IGPOConfig):
    """Skips the checks that require GPUs."""

    @override(IGPOConfig)
    def validate(self):
        nccl, self.engine = self.engine, {**self.engine, "weight_transfer": "shared_memory"}
        super().validate()
        self.engine = nccl


class ModelOfRank:
    """A model that keeps the weights it is given, in one process of an engine."""

    def __new__(cls):
        model = torch.nn.Module()
        model.held = {}
        model.load_weights = lambda weights: model.held.update(
            (name, tensor.clone()) for name, tensor in weights
        )
        return model


class EngineOfRanks:
    """A `VLLMEngine` without a model: vLLM's receiving ends, one per rank of a tensor-parallel engine, each
    in a thread.
    """

    def __init__(self, num_ranks):
        from concurrent.futures import ThreadPoolExecutor

        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

        self._threads = ThreadPoolExecutor(num_ranks)
        self.models = [ModelOfRank() for _ in range(num_ranks)]
        self._ends = []
        for rank, model in enumerate(self.models):
            parallel = SimpleNamespace(data_parallel_index=0, world_size=num_ranks, rank=rank)
            config = SimpleNamespace(
                parallel_config=parallel, model_config=SimpleNamespace(dtype=torch.float32)
            )
            self._ends.append(
                NCCLWeightTransferEngine(WeightTransferConfig(), config, torch.device("cpu"), model)
            )
        self.transfer_group, self.weights_version = None, -1

    def init_weight_transfer_engine(self, init_info, group):
        self._of_each(lambda end: end.init_transfer_engine(end.parse_init_info(init_info)))
        self.transfer_group = group

    def start_weight_update(self):
        self._of_each(lambda end: end.start_weight_update())

    def update_weights(self, update_info):
        self._of_each(lambda end: end.update_weights(update_info))

    def finish_weight_update(self, version):
        self._of_each(lambda end: end.finish_weight_update())
        self.weights_version = version

    def _of_each(self, function):
        list(self._threads.map(function, self._ends))


class RunnerOfRanks:
    """The part of an env runner that the transfer uses."""

    def __init__(self, num_ranks, policies):
        use_gloo()
        self.loop = SimpleNamespace(engines={policy: EngineOfRanks(num_ranks) for policy in policies})

    def apply(self, function, *args):
        return function(self, *args)

    def begin_run(self, config, run): ...

    @property
    def weights_version(self):
        versions = {engine.weights_version for engine in self.loop.engines.values()}
        return versions.pop() if len(versions) == 1 else versions

    @property
    def transfer_groups(self):
        return [engine.transfer_group for engine in self.loop.engines.values()]

    def held(self):
        return {
            policy: (engine.weights_version, [model.held for model in engine.models])
            for policy, engine in self.loop.engines.items()
        }
