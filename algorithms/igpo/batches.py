"""The rollouts of one training iteration."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from algorithms.igpo.jobs import training_jobs
from algorithms.igpo.metrics import sampling_seconds
from algorithms.igpo.sampling import SampledBatch

if TYPE_CHECKING:
    from algorithms.igpo.algorithm import IGPO


def sample_batch(algorithm: IGPO, iteration: int) -> SampledBatch:
    """Whole groups for `prompts_per_iteration` prompts; under dynamic sampling, collapsed ones make way for new prompts."""
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
        tokens += sum(turn.num_decision_tokens for group in groups for record in group for turn in record.rollout.turns)
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
    return SampledBatch(episodes, tokens, rollouts, metrics, weights_version, time.perf_counter() - started, dict(phases))
