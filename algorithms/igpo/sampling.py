"""Whole groups over the env runners, and what happens when a runner dies in the middle.

Only a lost process is retried: its groups go to the runners that are left, or to the restarted one, with the
same seeds. An exception inside a runner is a bug or bad input, comes back with its traceback, and ends the
run.
"""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from algorithms.igpo.metrics import sampling_seconds
from envs.data.question import Question
from envs.engine.base import NO_WEIGHTS
from envs.runner.episode_record import EpisodeRecord
from envs.runner.rollout_loop import RolloutJob

if TYPE_CHECKING:
    from algorithms.igpo.algorithm import IGPO

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ROUNDS = 3
"""Rounds in a row that bring back nothing before the run gives up."""


class RolloutError(RuntimeError):
    """An exception inside an env runner, with the runner's traceback."""


@dataclass(slots=True)
class SampledBatch:
    """The rollouts of one iteration, before anything was learnt from them."""

    episodes: list
    num_tokens: int
    """All sampled tokens, those of replaced groups counted."""
    num_rollouts: int
    """All rollouts, those of replaced groups counted."""
    runner_metrics: list
    weights_version: int
    """What the engines held."""
    seconds: float
    seconds_by_phase: dict[str, float]
    """Of the slowest runner; over the rounds in which groups were replaced, the sum."""


class GroupSampler:
    """Spreads groups of jobs over the env runners of `algorithm`."""

    def __init__(self, algorithm: IGPO):
        self._algorithm = algorithm

    @property
    def _runners(self):
        return self._algorithm.env_runner_group

    def sample(self, groups: list[list[RolloutJob]]) -> tuple[list[list[EpisodeRecord]], list]:
        """What happened in the rollouts of every group, in the order of `groups`, and the metrics of the
        runners.

        Raises:
            RolloutError: an exception inside a runner.
            RuntimeError: the runners kept dying.
        """
        local = self._runners.local_env_runner
        if local is not None:
            flat = local.sample_records([job for group in groups for job in group])
            return _regroup(groups, flat), [local.get_metrics()]
        records: dict[int, list[EpisodeRecord]] = {}
        metrics: list = []
        missing = list(range(len(groups)))
        fruitless = 0
        while missing:
            before = len(missing)
            for index, pickled, runner_metrics in self._one_round(groups, missing):
                metrics.append(runner_metrics)
                records |= dict(zip(index, pickle.loads(pickled), strict=True))
            missing = [index for index in missing if index not in records]
            if not missing:
                break
            logger.warning("an env runner died: %d of %d groups are sampled again", len(missing), len(groups))
            fruitless = fruitless + 1 if len(missing) == before else 0
            if fruitless == MAX_FRUITLESS_ROUNDS:
                raise RuntimeError(
                    f"env runners died in {fruitless} rounds of sampling in a row: see their logs"
                )
            self._revive()
        return [records[index] for index in range(len(groups))], metrics

    def _one_round(
        self, groups: list[list[RolloutJob]], missing: list[int]
    ) -> list[tuple[list[int], bytes, Any]]:
        ids = self._runners.healthy_env_runner_ids()
        if not ids:  # all of them died since the last sampling
            return []
        shares = {runner: missing[k :: len(ids)] for k, runner in enumerate(ids)}
        shares = {runner: share for runner, share in shares.items() if share}
        calls = [_sample_call([groups[index] for index in share], share) for share in shares.values()]
        results: list[Any] = self._runners.foreach_env_runner(
            calls, local_env_runner=False, remote_worker_ids=list(shares)
        )
        for result in results:
            if isinstance(result, str):
                raise RolloutError(f"an env runner failed:\n{result}")
        restarted = [result.worker_index for result in results if isinstance(result, _Restarted)]
        if restarted:
            self._algorithm.push_weights(restarted)
        return [result for result in results if not isinstance(result, _Restarted)]

    def _revive(self) -> None:
        """Waits for a runner where none is left."""
        deadline = time.monotonic() + (self._algorithm.config.env_runner_restore_timeout_s or 0.0)
        while True:
            self._algorithm.restore_env_runners(self._runners)
            if self._runners.num_healthy_remote_env_runners():
                return
            if time.monotonic() > deadline:
                raise RuntimeError("no env runner came back in time (env_runner_restore_timeout_s)")
            time.sleep(1.0)


@dataclass(frozen=True, slots=True)
class _Restarted:
    """A runner that died after its last call: Ray has started it anew, and it waits for weights."""

    worker_index: int


def _sample_call(groups: list[list[RolloutJob]], share: list[int]):
    def call(runner):
        if runner.weights_version == NO_WEIGHTS:
            return _Restarted(runner.worker_index)
        try:
            flat = runner.sample_records([job for group in groups for job in group])
            # Pickled here: Ray would take thousands of small arrays out of the stream, one by one.
            return share, pickle.dumps(_regroup(groups, flat), pickle.HIGHEST_PROTOCOL), runner.get_metrics()
        except Exception:  # crosses the process boundary as text and is raised by the driver
            return traceback.format_exc()

    return call


def _regroup(groups: list[list[RolloutJob]], flat: list) -> list[list]:
    records = iter(flat)
    return [[next(records) for _ in group] for group in groups]


def training_jobs(
    questions: Sequence[Question],
    drawn: Iterable[int],
    *,
    iteration: int,
    group_size: int,
    seed: int,
    drawn_before: Counter[int],
) -> list[list[RolloutJob]]:
    """A group of `group_size` rollouts for each of `questions` that was drawn.

    `drawn_before` counts the iteration's draws of each question, and is updated: one that comes again, across
    the border of an epoch, is a group of its own with other seeds.
    """
    groups = []
    for index in drawn:
        question, times = questions[index], drawn_before[index]
        drawn_before[index] += 1
        group_id = f"{iteration:06d}/{question.id}" + (f"/again{times}" if times else "")
        groups.append(
            [
                RolloutJob(
                    question, f"{group_id}/{g}", group_id, (seed, iteration, index, times * group_size + g)
                )
                for g in range(group_size)
            ]
        )
    return groups


def heldout_jobs(
    questions: Sequence[Question], *, samples: int, temperature: float, seed: int, first: int = 0
) -> list[list[RolloutJob]]:
    """`samples` rollouts of each question, whose belief is not scored. `first` is the place of the first
    among all questions: of several sources, two may have one id."""
    return [
        [
            RolloutJob(
                question,
                rollout_id=f"heldout/{index}/{question.id}/{k}",
                group_id=f"heldout/{index}/{question.id}",
                seed_parts=(seed, -1, index, k),
                split="heldout",
                temperature=temperature,
                score_beliefs=False,
            )
            for k in range(samples)
        ]
        for index, question in enumerate(questions, first)
    ]


def sample_batch(algorithm: IGPO, iteration: int) -> SampledBatch:
    """Whole groups for `prompts_per_iteration` prompts; under dynamic sampling, collapsed ones make way for
    new prompts.
    """
    started, config, weights_version = time.perf_counter(), algorithm.config, algorithm.weights_version
    kept: list = []
    spare: list = []
    metrics: list = []
    phases: defaultdict[str, float] = defaultdict(float)
    tokens = rollouts = 0
    drawn: Counter[int] = Counter()
    wanted = config.prompts_per_iteration
    for _ in range(config.max_resample + 1 if config.dynamic_sampling else 1):
        jobs = training_jobs(
            algorithm.task.train_questions,
            algorithm.cursor.next(wanted - len(kept)),
            iteration=iteration,
            group_size=config.group_size,
            seed=config.seed,
            drawn_before=drawn,
        )
        groups, new_metrics = algorithm.sampler.sample(jobs)
        metrics += new_metrics
        for name, seconds in sampling_seconds(new_metrics).items():
            phases[name] += seconds
        tokens += sum(
            turn.num_decision_tokens for group in groups for record in group for turn in record.rollout.turns
        )
        rollouts += sum(len(group) for group in groups)
        for group in groups:
            outcomes = {record.rollout.outcome for record in group}
            (kept if len(outcomes) > 1 or not config.dynamic_sampling else spare).append(group)
        if len(kept) == wanted:
            break
    # When the rounds are spent, collapsed groups fill the batch: they carry no gradient, but keep its size.
    chosen = kept + spare[: wanted - len(kept)]
    sampled = time.perf_counter()
    episodes = [record.episode(algorithm.task.policy_of) for group in chosen for record in group]
    phases["host"] += time.perf_counter() - sampled
    return SampledBatch(
        episodes, tokens, rollouts, metrics, weights_version, time.perf_counter() - started, dict(phases)
    )
