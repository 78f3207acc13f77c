"""Pairs of an env runner and a learner that take turns on one GPU (`engine.placement: colocated`).

RLlib makes the env runners first and the learners second, as actors of their own, and Ray puts each where a
part of a GPU is free. With more than half of a GPU for a runner, no GPU holds two; with the rest for a
learner, each learner comes to a runner where Ray has one GPU for each pair. `check_shares` asks for such
parts before a start, `check_pairing` looks at what Ray did.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import ray

from algorithms.igpo.remote import on_learners, on_runners
from envs.errors import InputError

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner_group import EnvRunnerGroup

    from algorithms.igpo.settings import IGPOSettings

ROUNDING = 1e-9
"""Shares whose sum is above 1 by less than this fill one GPU: 0.9 + 0.1 need not be 1 in binary."""

Gpu = tuple[str, str]
"""Id of a node of Ray's cluster, and of a GPU of that node."""


def check_colocation(config: IGPOSettings) -> None:
    """Raises InputError where env runners and learners cannot take turns on their GPUs."""
    if config.max_weight_lag:
        raise InputError(
            "engine.placement colocated takes turns, max_weight_lag 1 overlaps: leave one of them out"
        )
    runners, learners = config.num_env_runners or 0, config.num_learners
    # RLlib also validates a copy for evaluation, which has no runners.
    if max(1, runners) != max(1, learners) and not config.in_evaluation:
        raise InputError(
            "engine.placement colocated pairs each env runner with a learner: set num_env_runners and "
            f"num_learners to the same number, not {runners} and {learners}"
        )
    if config.shard_learner:
        raise InputError(
            "shard_learner cannot be combined with engine.placement colocated, because shards that wait in "
            "host memory cannot be gathered there for a push or a checkpoint: leave one of them out"
        )
    check_shares(config.num_gpus_per_env_runner, config.num_gpus_per_learner, pairs=max(1, learners))


def check_shares(of_runner: float, of_learner: float, *, pairs: int) -> None:
    """Raises InputError where the two do not fit on one GPU, or, of several pairs, two of a kind could.

    Args:
        of_runner: share of a GPU for an env runner (`num_gpus_per_env_runner`).
        of_learner: share of a GPU for a learner (`num_gpus_per_learner`).
        pairs: number of pairs. Without GPUs (both 0) any number is right.
    """
    if max(of_runner, of_learner) <= 0:
        return
    if min(of_runner, of_learner) <= 0 or of_runner + of_learner > 1 + ROUNDING:
        values = "both to 0.5" if pairs == 1 else "them to 0.6 and 0.4"
        raise InputError(
            "engine.placement colocated: num_gpus_per_env_runner and num_gpus_per_learner share one GPU: "
            f"set {values}, not {of_runner:g} and {of_learner:g}"
        )
    if pairs == 1:
        return
    if of_runner <= 0.5 or of_runner + 2 * of_learner <= 1 + ROUNDING:
        kind = "env runners" if of_runner <= 0.5 else "learners"
        raise InputError(
            f"engine.placement colocated: with num_gpus_per_env_runner {of_runner:g} and "
            f"num_gpus_per_learner {of_learner:g} Ray may put two {kind} on one GPU: set more than half for "
            "an env runner and the rest for a learner, for example 0.6 and 0.4"
        )


def check_pairing(config: IGPOSettings, learners: LearnerGroup, runners: EnvRunnerGroup) -> None:
    """Asks env runners and learners for their GPUs, and refuses those that are no pairs.

    Where learner or runner is in this process there is one pair, and nothing to choose. A runner whose
    process is lost is left out: Ray starts it again.

    Raises:
        InputError: as `check_pairs`.
    """
    if not (config.num_gpus_per_env_runner and config.num_env_runners and config.num_learners):
        return
    of_runners = dict(on_runners(runners, lambda runner: (runner.worker_index, gpus_here())))
    of_learners = dict(on_learners(learners, lambda learner: (learner._learner_index, gpus_here())))
    check_pairs(of_runners, of_learners)


def gpus_here() -> tuple[Gpu, ...]:
    """The GPUs that Ray gave to the calling actor."""
    node = ray.get_runtime_context().get_node_id()
    return tuple((node, str(gpu)) for gpu in ray.get_gpu_ids())


def check_pairs(of_runners: Mapping[int, Any], of_learners: Mapping[int, Any]) -> None:
    """Raises InputError unless each GPU has one env runner and one learner.

    A learner without a runner passes: its runner may be on its way back.

    Args:
        of_runners: {number of an env runner: its GPUs, a tuple of `Gpu`}.
        of_learners: the same of the learners.
    """
    cure = (
        f"show Ray as many GPUs as there are pairs, {len(of_learners)} (CUDA_VISIBLE_DEVICES), and set "
        "num_gpus_per_env_runner to 0.6 and num_gpus_per_learner to 0.4"
    )
    for kind, gpus_of in (("env runners", of_runners), ("learners", of_learners)):
        for (one, first), (other, second) in combinations(gpus_of.items(), 2):
            if shared := set(first) & set(second):
                raise InputError(
                    f"engine.placement colocated: {kind} {one} and {other} are both on {_name(min(shared))}: "
                    f"{cure}"
                )
    taken = {gpu for gpus in of_learners.values() for gpu in gpus}
    for runner, gpus in of_runners.items():
        if not taken.intersection(gpus):
            where = " and ".join(_name(gpu) for gpu in gpus) or "no GPU"
            raise InputError(
                f"engine.placement colocated: env runner {runner} is on {where}, where no learner is: {cure}"
            )


def _name(gpu: Gpu) -> str:
    node, number = gpu
    return f"GPU {number} of node {node[:8]}"
