"""Sampling: from drawn prompts to the rollouts of one iteration, in whole groups over the env runners.

A runner whose process dies loses its groups. They are sampled again with the same seeds, by the other runners
or by the restarted one. An exception inside a runner is a bug or bad input. It is raised here with its
traceback and ends the run.
"""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from algorithms.igpo.remote import check_started, with_traceback
from envs.data.question import Question
from envs.engine.base import NO_WEIGHTS
from envs.runner.episode_record import EpisodeRecord
from envs.runner.rollout_loop import RolloutJob

if TYPE_CHECKING:
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    from algorithms.igpo.settings import IGPOSettings
    from envs.data.prompt_sampler import PromptSampler
    from envs.search.task import SearchTask
    from envs.search.trajectory import Rollout

logger = logging.getLogger(__name__)

MAX_FRUITLESS_ROUNDS = 3
"""Rounds in a row without any result after which the run gives up."""


class RolloutError(RuntimeError):
    """An exception inside an env runner, with the runner's traceback."""


@dataclass(slots=True)
class SampledBatch:
    """The rollouts of one iteration, before the learner has seen them."""

    episodes: list[MultiAgentEpisode]
    """One per rollout; the rollouts of a group follow each other."""
    num_tokens: int
    """Sampled tokens, including those of replaced groups."""
    num_rollouts: int
    """Sampled rollouts, including those of replaced groups."""
    runner_metrics: list
    """The runners' metrics, one entry per runner and round."""
    weights_version: int
    """Version of the weights that the engines held."""
    seconds: float
    """Wall-clock seconds of the whole sampling."""
    seconds_by_phase: dict[str, float]
    """Seconds of each phase (generate, score, tools, host) of the slowest runner, summed over rounds."""
    replaced: list[Rollout] = field(default_factory=list)
    """Rollouts of collapsed groups that made way for others (dynamic sampling); not trained on."""


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
    """Makes the jobs of one round of training.

    Args:
        questions: the training questions.
        drawn: indices into `questions`, one per group.
        iteration: the iteration that the rollouts are for, from 1.
        group_size: G, rollouts per group.
        seed: the run's seed.
        drawn_before: number of times that each question was drawn in this iteration; updated. A question that
            is drawn again, because a new epoch has begun, gets a second group with other seeds.

    Returns:
        One list of `group_size` jobs per drawn question.
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
    """Makes the jobs of held-out rollouts without belief scoring: one list of `samples` jobs per question.

    `first` is the position of `questions[0]` among all held-out questions. It keeps ids unique, since
    questions of different sources may share an id.
    """
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


def sample_batch(
    config: IGPOSettings,
    task: SearchTask,
    prompt_sampler: PromptSampler,
    sampler: GroupSampler,
    weights_version: int,
    iteration: int,
) -> SampledBatch:
    """Draws prompts and rolls out a whole group for each.

    Dynamic sampling replaces collapsed groups by groups of new prompts, in up to `max_resample` rounds.

    Args:
        config: the batch's sizes and the seed.
        task: the questions, and the policy of each role.
        prompt_sampler: draws the prompts; its position moves on.
        sampler: makes the rollouts.
        weights_version: version of the weights that the engines hold.
        iteration: the iteration that the batch is for, from 1.
    """
    started = time.perf_counter()
    kept: list = []
    spare: list = []
    metrics: list = []
    phases: defaultdict[str, float] = defaultdict(float)
    tokens = rollouts = 0
    drawn: Counter[int] = Counter()
    wanted = config.prompts_per_iteration
    for _ in range(config.max_resample + 1 if config.dynamic_sampling else 1):
        jobs = training_jobs(
            task.train_questions,
            prompt_sampler.next(wanted - len(kept)),
            iteration=iteration,
            group_size=config.group_size,
            seed=config.seed,
            drawn_before=drawn,
        )
        groups, new_metrics = sampler.sample(jobs)
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
    fillers = wanted - len(kept)
    chosen = kept + spare[:fillers]
    replaced = [record.rollout for group in spare[fillers:] for record in group]
    sampled = time.perf_counter()
    episodes = [record.episode(task.policy_of) for group in chosen for record in group]
    phases["host"] += time.perf_counter() - sampled
    seconds = time.perf_counter() - started
    return SampledBatch(episodes, tokens, rollouts, metrics, weights_version, seconds, dict(phases), replaced)


def sampling_seconds(runner_metrics: list) -> dict[str, float]:
    """Returns the seconds of each phase of one round of sampling, those of the runner that took longest."""
    return {
        name: max(float(metrics[f"seconds_{name}"].peek()) for metrics in runner_metrics)
        for name in ("generate", "score", "tools", "host")
    }
