"""Makes rollouts in whole groups over the env runners.

A batch is divided into shares, one for each runner. A runner whose process dies loses its share, which is
sampled again as a whole, with the same seeds, by another runner or by the restarted one: the last digits of
an engine's sums depend on what it computes together, so only the same share gives the same numbers. An
exception inside a runner is a bug or bad input. It is raised here with its traceback and ends the run.
"""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from algorithms.igpo.remote import check_started, with_traceback
from envs.engine.base import NO_WEIGHTS
from envs.runner.episode_record import EpisodeRecord
from envs.runner.job import RolloutJob

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ROUNDS = 3
"""Rounds in a row without any result after which the run gives up."""


class RolloutError(RuntimeError):
    """An exception inside an env runner, with the runner's traceback."""


class GroupSampler:
    """Samples whole groups of rollouts on RLlib's env runners.

    Args:
        runners: the env runners.
        push_weights: called with the ids of restarted runners, loads the learner's weights into them.
        restore: brings dead runners back, with the learner's weights (`IGPO.restore_env_runners`).
        restore_timeout_s: seconds to wait for a runner where none is left.
    """

    def __init__(
        self,
        runners: EnvRunnerGroup,
        push_weights: Callable[[list[int]], object],
        restore: Callable[[EnvRunnerGroup], object],
        restore_timeout_s: float,
    ):
        self._runners, self._push_weights = runners, push_weights
        self._restore, self._restore_timeout_s = restore, restore_timeout_s

    def sample(self, groups: list[list[RolloutJob]]) -> tuple[list[list[EpisodeRecord]], list]:
        """Samples every job of every group.

        Returns:
            The records of the rollouts, in the order of `groups`, and the metrics of the runners.

        Raises:
            RolloutError: an exception inside a runner.
            RuntimeError: the runners kept dying.
        """
        local: Any = self._runners.local_env_runner
        if local is not None:
            flat = local.sample_records([job for group in groups for job in group])
            return _regroup(groups, flat), [local.get_metrics()]
        records: dict[int, list[EpisodeRecord]] = {}
        metrics: list = []
        number = self._runners.num_remote_env_runners()  # the dead ones too
        missing = [share for k in range(number) if (share := list(range(len(groups)))[k::number])]
        fruitless = 0
        while missing:
            before = len(missing)
            for sampled, runner_metrics in self._one_round(groups, missing):
                metrics.append(runner_metrics)
                for share, pickled in sampled:
                    records |= dict(zip(share, pickle.loads(pickled), strict=True))
            missing = [share for share in missing if share[0] not in records]
            if not missing:
                break
            lost = sum(len(share) for share in missing)
            logger.warning("an env runner died: %d of %d groups are sampled again", lost, len(groups))
            fruitless = fruitless + 1 if len(missing) == before else 0
            if fruitless == MAX_FRUITLESS_ROUNDS:
                raise RuntimeError(
                    f"env runners died in {fruitless} rounds of sampling in a row: see their logs"
                )
            self._revive()
        return [records[index] for index in range(len(groups))], metrics

    def _one_round(
        self, groups: list[list[RolloutJob]], shares: list[list[int]]
    ) -> list[tuple[list[tuple[list[int], bytes]], Any]]:
        """Divides the shares among the living runners. Returns what those that live have sampled."""
        ids = self._runners.healthy_env_runner_ids()
        if not ids:  # all of them died since the last sampling
            return []
        of_runner = {runner: own for k, runner in enumerate(ids) if (own := shares[k :: len(ids)])}
        calls = [_sample_call(groups, own) for own in of_runner.values()]
        results: list[Any] = self._runners.foreach_env_runner(
            calls, local_env_runner=False, remote_worker_ids=list(of_runner)
        )
        for result in results:
            if isinstance(result, str):
                raise with_traceback("an env runner failed", result, RolloutError)
        restarted = [result.worker_index for result in results if isinstance(result, _Restarted)]
        if restarted:
            self._push_weights(restarted)
        return [result for result in results if not isinstance(result, _Restarted)]

    def _revive(self) -> None:
        """Restores dead runners. Where none is left alive, waits for the first to come back."""
        started, told = time.monotonic(), False
        while True:
            self._restore(self._runners)
            check_started(self._runners)
            if self._runners.num_healthy_remote_env_runners():
                return
            limit = f"{self._restore_timeout_s:g} s (env_runner_restore_timeout_s)"
            if time.monotonic() > started + self._restore_timeout_s:
                raise RuntimeError(f"no env runner came back within {limit}: is a node of the cluster gone?")
            if not told:
                logger.warning("waiting for an env runner, at most %s: is a node gone? add another", limit)
                told = True
            time.sleep(1.0)


@dataclass(frozen=True, slots=True)
class _Restarted:
    """Answer of a runner that died after its last call: Ray has restarted it, and it needs weights."""

    worker_index: int


def _sample_call(groups: list[list[RolloutJob]], shares: list[list[int]]):
    own = [(share, [groups[index] for index in share]) for share in shares]

    def call(runner):
        if runner.weights_version == NO_WEIGHTS:
            return _Restarted(runner.worker_index)
        try:
            sampled = []
            for share, jobs in own:
                flat = runner.sample_records([job for group in jobs for job in group])
                # Pickled here: Ray would take thousands of small arrays out of the stream, one by one.
                sampled.append((share, pickle.dumps(_regroup(jobs, flat), pickle.HIGHEST_PROTOCOL)))
            return sampled, runner.get_metrics()
        except Exception:  # crosses the process boundary as text and is raised by the driver
            return traceback.format_exc()

    return call


def _regroup(groups: list[list[RolloutJob]], flat: list) -> list[list]:
    records = iter(flat)
    return [[next(records) for _ in group] for group in groups]
