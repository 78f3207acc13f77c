"""The batch of one iteration: prompts are drawn and rolled out, in several rounds where groups collapse."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from algorithms.igpo.sampling.group_sampler import GroupSampler
from algorithms.igpo.sampling.jobs import training_jobs

if TYPE_CHECKING:
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    from algorithms.igpo.settings import IGPOSettings
    from envs.data.prompt_sampler import PromptSampler
    from envs.search.task import SearchTask
    from envs.search.trajectory import Rollout


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
    """Seconds of each phase (generate, score, tools, host), the largest of any runner, summed over rounds. Of
    several runners they may add up to more than `seconds`."""
    replaced: list[Rollout] = field(default_factory=list)
    """Rollouts of collapsed groups that made way for others (dynamic sampling); not trained on."""
    drawn_from: dict = field(default_factory=dict)
    """State of the prompt sampler before the batch's prompts were drawn."""


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
    started, drawn_from = time.perf_counter(), prompt_sampler.state()
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
    return SampledBatch(
        episodes, tokens, rollouts, metrics, weights_version, seconds, dict(phases), replaced, drawn_from
    )


def sampling_seconds(runner_metrics: list) -> dict[str, float]:
    """Returns the seconds of each phase of one round of sampling, the largest of any runner."""
    return {
        name: max(float(metrics[f"seconds_{name}"].peek()) for metrics in runner_metrics)
        for name in ("generate", "score", "tools", "host")
    }
