"""Pushes the learner's weights to the rollout engines, and verifies that they arrived.

`engine.weight_transfer: shared_memory`: the first learner puts its weights into Ray's object store, and every
runner of its node reads them there. The driver copies nothing.

`engine.weight_transfer: nccl`: the first learner sends its weights from GPU to GPU to all engines at once, by
vLLM's weight-transfer engine (`algorithms.igpo.weights.nccl`). Host memory is not involved. A runner that Ray
restarted takes its first weights through shared memory, and joins a new transfer group at the next push.

A restarted runner gets the weights that the other engines hold. Under `max_weight_lag` the learner may have
newer ones by then, so what went through shared memory stays there until the next push. What went by NCCL
cannot: there the runner gets the learner's.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.core import COMPONENT_RL_MODULE

from algorithms.igpo.remote import on_learners, on_runners
from algorithms.igpo.weights.transfer_group import TransferGroup

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from algorithms.igpo.settings import IGPOSettings

MAX_TRANSFER_SECONDS = 600.0
"""Longest transfer by NCCL. A runner that dies during one leaves the others waiting; the run then ends."""


class WeightPush:
    """Pushes weights from learners to the engines of env runners.

    Args:
        config: how weights are transferred, and whether learners share one model.
        learners: the learners.
        runners: the env runners.
        run: number of the run on these runners. Ray restarts a runner with the configuration of run 0, so of
            a later one (`IGPO.reset_config`) it gets the configuration with its weights.
    """

    def __init__(self, config: IGPOSettings, learners: LearnerGroup, runners: EnvRunnerGroup, run: int = 0):
        self._config = config
        self._run = run
        self._learners = learners
        self._runners = runners
        self._group: TransferGroup | None = None
        self._kept: tuple[int, Any, int] | None = None  # version, reference and bytes of the last push to all

    def push(self, version: int, runner_ids: list[int] | None = None) -> int:
        """Loads the learner's weights into the engines and waits until they are there.

        Args:
            version: version of the learner's weights.
            runner_ids: runners whose engines are loaded; None: all.

        Returns:
            Bytes of the weights.

        Raises:
            RuntimeError: an engine did not take the weights, or holds another version than `version`
                afterwards, or a transfer did not end.
        """
        transfers = self._config.engine_settings.weight_transfer == "nccl" and runner_ids is None
        num_bytes, held = self._transfer(version) if transfers else self._share(version, runner_ids)
        _check_versions(version, held)
        return num_bytes

    @property
    def keeps_weights(self) -> bool:
        """Whether the last push to all can be repeated for a restarted runner."""
        return self._kept is not None

    def repeat(self, runner_ids: list[int]) -> int:
        """Loads the weights of the last push to all into restarted engines. Returns and raises as `push`."""
        assert self._kept is not None
        version, reference, num_bytes = self._kept
        _check_versions(version, self._load(reference, version, runner_ids))
        return num_bytes

    def give_device_to_learner(self) -> None:
        """Puts all engines to sleep until the next push, and then moves every learner onto its device.

        For `engine.placement: colocated`. A runner that is being restarted is not asked: it comes back
        without engines, and builds them at the push that brings its weights.
        """
        on_runners(self._runners, lambda runner: runner.sleep())
        on_learners(self._learners, lambda learner: learner.enter_device())

    def _share(self, version: int, runner_ids: list[int] | None) -> tuple[int, list[int]]:
        if self._config.is_colocated:  # all of them, before the first engine wakes
            on_learners(self._learners, lambda learner: learner.leave_device())
        if runner_ids is None:
            self._kept = None  # before the next: there is room for one copy

        def share(learner):
            state = learner.get_state(components=COMPONENT_RL_MODULE, inference_only=True, gather=True)[
                COMPONENT_RL_MODULE
            ]
            if learner._learner_index:
                return None
            return ray.put(state), sum(array.nbytes for module in state.values() for array in module.values())

        ((reference, num_bytes),) = filter(None, self._on_senders(share))
        if runner_ids is None and self._config.max_weight_lag:
            self._kept = version, reference, num_bytes
        return num_bytes, self._load(reference, version, runner_ids)

    def _load(self, reference: Any, version: int, runner_ids: list[int] | None) -> list[int]:
        config, run = self._config, self._run

        def load(runner) -> int:
            runner.begin_run(config, run)
            return runner.load_weights(ray.get(reference), version)

        return on_runners(self._runners, load, ids=runner_ids)

    def _transfer(self, version: int) -> tuple[int, list[int]]:
        config, run = self._config, self._run

        def membership(runner) -> tuple[ActorHandle, set[str | None]]:
            """Returns the runner's own handle, and the names of its engines' transfer groups."""
            runner.begin_run(config, run)
            names = {engine.transfer_group for engine in runner.loop.engines.values()}
            return ray.get_runtime_context().current_actor, names

        members: Any = self._runners.foreach_env_runner(membership, local_env_runner=False)
        if not members:
            return 0, []  # all are dead: `restore_env_runners` brings weights to those that come back
        group = self._group
        if (
            group is None
            or len(members) != len(group.runners)
            or any(names != {group.name} for _, names in members)
        ):
            group = self._group = self._new_group(tuple(runner for runner, _ in members))

        send: Any = lambda learner: learner.weight_sender.send(group, version)  # noqa: E731
        sent = self._on_senders(send, MAX_TRANSFER_SECONDS)
        if len(sent) < (self._config.num_learners if self._config.shard_learner else 1):
            raise RuntimeError(
                f"the weights were not with all engines after {MAX_TRANSFER_SECONDS:.0f} s: an env runner "
                "died in the middle, or NCCL cannot reach it (NCCL_DEBUG=INFO says more). "
                "engine.weight_transfer shared_memory takes another way"
            )
        held: Any = lambda runner: runner.weights_version  # noqa: E731
        return max(sent), self._runners.foreach_env_runner(held, local_env_runner=False)

    def _new_group(self, runners: tuple[ActorHandle, ...]) -> TransferGroup:
        size = self._config.engine_settings.tensor_parallel_size
        return TransferGroup(uuid.uuid4().hex, runners, tuple(self._config.policy_ids), size)

    def _on_senders(self, function, timeout_seconds: float | None = None) -> list:
        """Calls `function` on all learners where they share one model, otherwise on the first."""
        ids = None if self._config.shard_learner else [0]
        return on_learners(self._learners, function, ids=ids, timeout_seconds=timeout_seconds)


def _check_versions(version: int, held: list[int]) -> None:
    if any(other != version for other in held):
        raise RuntimeError(f"pushed weights version {version}, but the env runners hold {held}")
