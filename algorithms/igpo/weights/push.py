"""The learner's weights into the engines, through shared memory or from GPU to GPU
(`engine.weight_transfer`), and verified.

Shared memory: the first learner puts its weights into Ray's object store, from where every runner of its node
reads; the driver
copies nothing. `nccl`: the first learner sends them to all engines at once by vLLM's weight-transfer engine
(`algorithms.igpo.weights.nccl`); no host memory is touched. A runner that Ray restarted takes its first
weights through shared memory, and joins a new transfer group at the next push.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.core import COMPONENT_RL_MODULE

from algorithms.igpo.remote import on_learners
from algorithms.igpo.weights.transfer_group import TransferGroup
from envs.engine.base import EngineSettings

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from algorithms.igpo.algorithm import IGPO

MAX_TRANSFER_SECONDS = 600.0
"""A runner that dies in the middle of a transfer leaves the others waiting for it: then the run ends."""


class WeightPush:
    """Pushes weights from the learners of `algorithm` to the engines of its env runners."""

    def __init__(self, algorithm: IGPO):
        self._algorithm = algorithm
        self._group: TransferGroup | None = None

    def push(self, version: int, runner_ids: list[int] | None = None) -> int:
        """Loads the weights into the engines of `runner_ids` (None: of all), waits, and returns their bytes.

        Raises:
            RuntimeError: an engine holds another version than `version` afterwards, or a transfer did not
                end.
        """
        transfers = (
            EngineSettings(**self._algorithm.config.engine).weight_transfer == "nccl" and runner_ids is None
        )
        num_bytes, held = self._transfer(version) if transfers else self._share(version, runner_ids)
        if any(other != version for other in held):
            raise RuntimeError(f"pushed weights version {version}, but the env runners hold {held}")
        return num_bytes

    def give_device_to_learner(self) -> None:
        """`engine.placement: colocated`: until the next push the engines sleep."""
        sleep: Any = lambda runner: runner.sleep()  # noqa: E731
        self._algorithm.env_runner_group.foreach_env_runner(sleep)
        on_learners(self._algorithm.learner_group, lambda learner: learner.enter_device())

    def _share(self, version: int, runner_ids: list[int] | None) -> tuple[int, list[int]]:
        leaves_device = self._algorithm.config.is_colocated

        def share(learner):
            if leaves_device:
                learner.leave_device()
            state = learner.get_state(components=COMPONENT_RL_MODULE, inference_only=True, gather=True)[
                COMPONENT_RL_MODULE
            ]
            if learner._learner_index:
                return None
            return ray.put(state), sum(array.nbytes for module in state.values() for array in module.values())

        ((reference, num_bytes),) = filter(None, self._on_senders(share))
        runners = self._algorithm.env_runner_group
        if runners.local_env_runner is not None:
            local: Any = runners.local_env_runner
            return num_bytes, [local.load_weights(ray.get(reference), version)]
        load: Any = lambda runner: runner.load_weights(ray.get(reference), version)  # noqa: E731
        return num_bytes, runners.foreach_env_runner(
            load, local_env_runner=False, remote_worker_ids=runner_ids
        )

    def _transfer(self, version: int) -> tuple[int, list[int]]:
        runners = self._algorithm.env_runner_group
        members: Any = runners.foreach_env_runner(_membership, local_env_runner=False)
        if not members:
            return 0, []  # they are dead: `restore_env_runners` brings weights to those that come back
        group = self._group
        if (
            group is None
            or len(members) != len(group.runners)
            or any(names != {group.name} for _, names in members)
        ):
            group = self._group = self._new_group(tuple(runner for runner, _ in members))

        send: Any = lambda learner: learner.weight_sender.send(group, version)  # noqa: E731
        sent = self._on_senders(send, MAX_TRANSFER_SECONDS)
        if len(sent) < (self._algorithm.config.num_learners if self._algorithm.config.shard_learner else 1):
            raise RuntimeError(
                f"the weights were not with all engines after {MAX_TRANSFER_SECONDS:.0f} s: an env runner "
                "died in the middle, or "
                "NCCL cannot reach it (NCCL_DEBUG=INFO says more). engine.weight_transfer shared_memory "
                "takes another way"
            )
        held: Any = lambda runner: runner.weights_version  # noqa: E731
        return max(sent), runners.foreach_env_runner(held, local_env_runner=False)

    def _new_group(self, runners: tuple[ActorHandle, ...]) -> TransferGroup:
        config = self._algorithm.config
        policies = sorted({role.policy for role in config.env_settings().roles})
        size = EngineSettings(**config.engine).tensor_parallel_size
        return TransferGroup(uuid.uuid4().hex, runners, tuple(policies), size)

    def _on_senders(self, function, timeout_seconds: float | None = None) -> list:
        """What `function` returned on all learners, where they share one model; else on the first."""
        ids = None if self._algorithm.config.shard_learner else [0]
        return on_learners(self._algorithm.learner_group, function, ids=ids, timeout_seconds=timeout_seconds)


def _membership(runner) -> tuple[ActorHandle, set[str | None]]:
    """The runner's own handle, and the names of its engines' transfer groups."""
    return ray.get_runtime_context().current_actor, {
        engine.transfer_group for engine in runner.loop.engines.values()
    }
