"""`IGPOEnvRunner`: RLlib's env runner around the rollout loop, with a rollout engine per policy.

One runner is one process with its own engines; policies that are adapters of one base share one. Its
`RolloutLoop` advances the state machines (`SearchEpisode`) directly, without `SearchEnv`. It returns a record
per rollout, or RLlib's `MultiAgentEpisode` with one timestep per turn.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import ray

from envs.loading import without_collecting

with without_collecting():  # the first import of RLlib in a worker's process
    from ray.rllib.env import INPUT_ENV_SINGLE_SPACES, INPUT_ENV_SPACES
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.utils.annotations import override
    from ray.rllib.utils.checkpoints import Checkpointable
    from ray.rllib.utils.metrics import (
        EPISODE_LEN_MEAN,
        EPISODE_RETURN_MEAN,
        NUM_ENV_STEPS_SAMPLED,
        NUM_ENV_STEPS_SAMPLED_LIFETIME,
        NUM_EPISODES,
        WEIGHTS_SEQ_NO,
    )

from envs.engine.base import NO_WEIGHTS
from envs.engine.build import build_engines
from envs.engine.models import resolve_model
from envs.engine.peak_memory import peak_memory_gib, reset_peak_memory
from envs.runner.episode_record import EpisodeRecord
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import LoopSeconds, RolloutLoop
from envs.search.environment import TOKENS
from envs.search.task import SearchTask
from envs.search.trajectory import Rollout


class IGPOEnvRunner(EnvRunner, Checkpointable):
    """Makes rollouts.

    Args:
        config: an `IGPOConfig`. A driver-side runner beside remote ones builds no engines.
    """

    config: Any
    """An `IGPOConfig`. This package does not import `algorithms`."""

    def __init__(self, *, config, **kwargs):
        self._env_steps_lifetime = 0
        self._run = 0
        self.loop: Any = None
        """The `RolloutLoop`; None in a driver-side runner beside remote ones, and in a runner that Ray has
        restarted beside a learner (`engine.placement: colocated`) until its first weights."""
        with without_collecting():
            super().__init__(config=config, **kwargs)
            self._has_engines = (self.worker_index or 0) > 0 or self.config.num_env_runners == 0
            # The learner may have the device now. Weights come when it has left it.
            if self._has_engines and not (self.config.is_colocated and _is_restarted()):
                self.loop = self._build_loop()

    def _build_loop(self) -> RolloutLoop:
        settings = self.config.env_settings()
        task = SearchTask(settings)
        engines = build_engines(
            dict.fromkeys(self.config.policy_ids, resolve_model(self.config.model_path)),
            self.config.engine_settings,
            served=self.config.adapters.served,
            max_model_len=settings.max_context_tokens + 1,
            dtype=self.config.model_dtype,
            seed=self._seed or 0,
            reads_text=bool(task.protocol.stop_strings),
            trust_remote_code=self.config.trust_remote_code,
        )
        return RolloutLoop(task, engines, scores_on_engine=self.config.belief_scoring.on_engine)

    def begin_run(self, config, run: int) -> None:
        """Begins another run: builds its task around the running engines, which lose their weights.

        Engines that share their device with the learner go to sleep, because that is built next. Does nothing
        in a runner that is in this run already.

        Args:
            config: an `IGPOConfig` that the running engines fit (its `engine_identity` is the same).
            run: its number; a runner is built, and restarted by Ray, in run 0.
        """
        if self._run == run:
            return
        self.config, self._run = config, run
        if self.loop is not None:
            task = SearchTask(config.env_settings())
            for engine in self.loop.engines.values():
                if config.is_colocated:
                    engine.sleep()
                engine.weights_version = NO_WEIGHTS
            self.loop = RolloutLoop(task, self.loop.engines, scores_on_engine=config.belief_scoring.on_engine)

    @override(EnvRunner)
    def sample(
        self,
        *,
        jobs: Sequence[RolloutJob] | None = None,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        **kwargs,
    ) -> list:
        """Makes rollouts and returns them as RLlib episodes.

        Args:
            jobs: the rollouts to make; None for random training questions.
            num_timesteps: not used.
            num_episodes: the number of rollouts without `jobs`; default 1.
            explore: False decodes greedily, without `jobs`; jobs have temperatures of their own.

        Returns:
            A `MultiAgentEpisode` per rollout, in the order of `jobs`.
        """
        if jobs is None:
            jobs = self._random_jobs(num_episodes or 1, explore)
        return [record.episode(self.loop.task.policy_of) for record in self.sample_records(jobs)]

    def sample_records(self, jobs: Sequence[RolloutJob]) -> list[EpisodeRecord]:
        """Makes the rollouts of `jobs` and returns their records, in the same order."""
        started = time.perf_counter()
        reset_peak_memory()
        records, seconds = self.loop.run(list(jobs))
        self._log([record.rollout for record in records], seconds, time.perf_counter() - started)
        return records

    def _random_jobs(self, count: int, explore: bool | None) -> list[RolloutJob]:
        import numpy as np

        questions = self.loop.task.train_questions
        rng = np.random.default_rng([self._seed or 0, self._env_steps_lifetime])
        return [
            RolloutJob(
                self.loop.task.playable_from(int(index)),
                rollout_id=f"sample-{self._env_steps_lifetime}-{k}",
                group_id=f"sample-{self._env_steps_lifetime}-{k}",
                seed_parts=(self._seed or 0, self._env_steps_lifetime, int(index), k),
                temperature=0.0 if explore is False else 1.0,
            )
            for k, index in enumerate(rng.integers(len(questions), size=count))
        ]

    def _log(self, rollouts: list[Rollout], seconds: LoopSeconds, total: float) -> None:
        num_turns = sum(rollout.num_turns for rollout in rollouts)
        self._env_steps_lifetime += num_turns
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, num_turns, reduce="sum")
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED_LIFETIME, num_turns, reduce="lifetime_sum")
        self.metrics.log_value(NUM_EPISODES, len(rollouts), reduce="sum")
        if rollouts:  # one mean per batch, because RLlib takes milliseconds to merge single episodes
            self.metrics.log_value(
                EPISODE_RETURN_MEAN, fmean(rollout.outcome for rollout in rollouts), reduce="mean", window=1
            )
            self.metrics.log_value(EPISODE_LEN_MEAN, num_turns / len(rollouts), reduce="mean", window=1)
        for name, value in {**asdict(seconds), "sample": total}.items():
            self.metrics.log_value(f"seconds_{name}", value, reduce="max")
        self.metrics.log_value("peak_gib_sample", peak_memory_gib(), reduce="max")

    # -- weights and state --

    @property
    def weights_version(self) -> int:
        """The version of the weights in all engines; NO_WEIGHTS where they differ or there is no engine."""
        held = (
            set() if self.loop is None else {engine.weights_version for engine in self.loop.engines.values()}
        )
        return held.pop() if len(held) == 1 else NO_WEIGHTS

    def load_weights(self, modules: dict[str, dict], version: int) -> int:
        """Loads weights into the engines. A runner that was restarted beside a learner builds them first.

        Args:
            modules: {module id: state of the module}, with every policy.
            version: the version of these weights.

        Returns:
            `weights_version` afterwards.
        """
        from envs.engine.weights import state_to_tensors

        if self.loop is None and self._has_engines:
            with without_collecting():
                self.loop = self._build_loop()
        if self.loop is not None:
            for policy, engine in self.loop.engines.items():
                engine.load_weights(state_to_tensors(modules[policy]), version)
        return self.weights_version

    def sleep(self) -> None:
        """Puts the engines to sleep, so that the learner has the device until `load_weights`."""
        if self.loop is not None:
            for engine in self.loop.engines.values():
                engine.sleep()

    @override(Checkpointable)
    def get_state(self, components=None, *, not_components=None, **kwargs) -> dict[str, Any]:
        return {
            NUM_ENV_STEPS_SAMPLED_LIFETIME: self._env_steps_lifetime,
            WEIGHTS_SEQ_NO: self.weights_version,
        }

    @override(Checkpointable)
    def set_state(self, state: dict[str, Any]) -> None:
        """Takes RLlib's state dictionary. Weights come from `IGPO.push_weights` alone."""
        self._env_steps_lifetime = state.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, self._env_steps_lifetime)

    @override(Checkpointable)
    def get_ctor_args_and_kwargs(self):
        return (), {"config": self.config}

    @override(Checkpointable)
    def get_checkpointable_components(self):
        return []

    # -- other hooks of RLlib's EnvRunner --

    @override(EnvRunner)
    def assert_healthy(self) -> None:
        if not hasattr(self, "loop"):
            raise RuntimeError("the env runner was not built")

    @override(EnvRunner)
    def get_spaces(self) -> dict:
        spaces = (TOKENS, TOKENS)
        modules = dict.fromkeys(self.config.policy_ids, spaces)
        return {INPUT_ENV_SPACES: spaces, INPUT_ENV_SINGLE_SPACES: spaces, **modules}

    @override(EnvRunner)
    def get_metrics(self):
        return self.metrics.reduce()


def _is_restarted() -> bool:
    """Whether this process is an actor that Ray has started again."""
    if not ray.is_initialized():
        return False
    context = ray.get_runtime_context()
    with warnings.catch_warnings():  # Ray's own use of a property that it deprecates
        warnings.simplefilter("ignore")
        return context.get_actor_id() is not None and bool(context.was_current_actor_reconstructed)
