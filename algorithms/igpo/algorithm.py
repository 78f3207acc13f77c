"""`IGPO`: RLlib's algorithm class.

One training step: draw prompts, roll out whole groups, learn, push weights.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune.registry import register_env, register_trainable

from algorithms.igpo.callbacks import IGPOCallback
from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.guards import check_gap, check_tools
from algorithms.igpo.iteration_record import GroupCredit, IterationRecord, TurnCredit, TurnTokens
from algorithms.igpo.learner.groups import shard_groups
from algorithms.igpo.learner.token_batch import turn_tokens
from algorithms.igpo.metrics import evaluation_metrics, learner_metrics, training_metrics
from algorithms.igpo.remote import in_background, on_learners
from algorithms.igpo.sampling import GroupSampler, SampledBatch, heldout_jobs, sample_batch
from algorithms.igpo.start_over import fits_engines, start_over
from algorithms.igpo.weights.push import WeightPush
from envs.data.question import Question
from envs.runner.belief import QUERY, enter_scores
from envs.search.environment import SearchEnv
from envs.search.task import SearchTask
from envs.search.trajectory import Rollout

HF_FOLDER = "hf"
"""Folder of a checkpoint that holds a plain Hugging Face folder per module."""
register_env("search", lambda config: SearchEnv(config))


class IGPO(Algorithm):
    """Information Gain-based Policy Optimization (arXiv 2510.14967) and its relatives: the estimator is
    `config.preset`.

    Attributes:
        records: what the last `train()` or `evaluate()` left for logs: rollouts, and the credit that training
            used. One that raised leaves what it had.
    """

    config: IGPOConfig
    metrics: MetricsLogger
    callbacks: list[RLlibCallback]
    learner_group: LearnerGroup
    env_runner_group: EnvRunnerGroup

    @classmethod
    def get_default_config(cls) -> IGPOConfig:
        return IGPOConfig()

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config) -> bool:
        return False  # the training runners evaluate: one engine, not two

    def setup(self, config) -> None:
        self.records: list[IterationRecord] = []
        super().setup(config)
        self._begin()

    def _begin(self) -> None:
        """What a run starts with besides RLlib's own: the task, its cursor, and engines that hold the
        learner's weights.
        """
        self.task = SearchTask(self.config.env_settings())
        self.cursor = self.task.prompt_cursor(self.config.seed)
        self.sampler = GroupSampler(self)
        self._ahead: SampledBatch | None = None
        """The next iteration's batch, where it was sampled while the learner updated (`max_weight_lag`)."""
        self._weight_push = WeightPush(self)
        self._learning = Lock()
        """Held while the weights change: a runner that comes back in the middle of it is given the new ones,
        whole."""
        self.push_weights()

    def start_over(self, config: IGPOConfig) -> bool:
        """Begins another run under `config` with the engines that run already; False, and nothing done, where
        they do not fit.
        """
        if not fits_engines(self.config, config):
            return False
        start_over(self, config)
        self._begin()
        return True

    # -- one iteration --

    def step(self) -> dict[str, Any]:
        self.records = []
        with self._failure_reported():
            result = super().step()
        result["igpo"] = {name: float(value) for name, value in result["igpo"].items()}
        return result

    def training_step(self) -> None:
        started = time.perf_counter()
        iteration = self.iteration + 1
        learner_version = self.weights_version
        batch = self._ahead or sample_batch(self, iteration)
        self._ahead = None
        following = in_background(sample_batch, self, iteration + 1) if self.config.max_weight_lag else None
        self.metrics.aggregate(batch.runner_metrics, key=ENV_RUNNER_RESULTS)
        episodes, weights_version = batch.episodes, batch.weights_version
        rollouts: list[Rollout] = [episode.custom_data["rollout"] for episode in episodes]
        record = IterationRecord(iteration, "train", weights_version, rollouts)
        self.records.append(record)
        check_tools(rollouts, self.config.max_tool_error_share)
        swap_started = time.perf_counter()
        if self.config.is_colocated:
            self._weight_push.give_device_to_learner()
        seconds_swap = time.perf_counter() - swap_started
        seconds_score = 0.0 if self.config.belief_scoring.on_engine else self._score_beliefs(episodes)

        learn_started = time.perf_counter()
        credit, groups = record.credit, record.groups = self._learn(episodes)
        seconds_learn = time.perf_counter() - learn_started

        metrics = training_metrics(rollouts, credit, groups)
        metrics |= learner_metrics(self.metrics, list(self.config.policies))
        if weights_version == learner_version:
            check_gap(metrics["logp_gap_mean"], self.config.logp_gap_bound, weights_version)

        wait_started = time.perf_counter()
        if following is not None:
            self._ahead = following.result()
        push_started = time.perf_counter()
        pushed_bytes = self.push_weights()
        seconds_credit = metrics.pop("seconds_credit")
        seconds = batch.seconds_by_phase | {
            "sample": batch.seconds,
            "credit": seconds_credit,
            "learn": seconds_learn - seconds_credit,
            "push": time.perf_counter() - push_started,
            "swap": seconds_swap,
        }
        if following is not None:
            seconds["wait"] = push_started - wait_started
        seconds["score"] += seconds_score
        seconds["total"] = time.perf_counter() - started
        metrics |= {f"seconds_{name}": value for name, value in seconds.items()}
        metrics |= {
            "tokens_sampled": float(batch.num_tokens),
            "rollouts_sampled": float(batch.num_rollouts),
            "tokens_per_second": batch.num_tokens / batch.seconds,
            "peak_gib_sample": max(float(m["peak_gib_sample"].peek()) for m in batch.runner_metrics),
            "pushed_mib": pushed_bytes / 2**20,
            "groups_incomplete": float(sum(group.size < self.config.group_size for group in groups)),
            "weights_version": float(weights_version),
            "weight_lag": float(learner_version - weights_version),
        }
        for name, value in metrics.items():
            self.metrics.log_value(("igpo", name), value, reduce="mean", window=1)
        record.seconds = seconds
        if self.config.log_tokens:
            record.tokens = turn_tokens(episodes)
            record.token_texts = self._token_texts(record.tokens.values())

    def _token_texts(self, turns: Iterable[TurnTokens]) -> dict[int, str]:
        ids = np.concatenate([part for turn in turns for part in (turn.context_ids_C, turn.decision_ids_L)])
        return {i: str(self.task.protocol.tokenizer.decode([i])) for i in np.unique(ids).tolist()}

    def _score_beliefs(self, episodes: list) -> float:
        """Scores on the learners the rollouts that the env runners left unscored; returns the seconds it
        took.
        """
        started = time.perf_counter()
        count = max(1, self.config.num_learners)
        queries = [episode.custom_data.pop(QUERY) for episode in episodes]
        shares = [ray.put(queries[k::count]) for k in range(count)]
        policy = self.task.answering_role.policy

        def score(learner):
            index = learner._learner_index or 0
            return index, learner.score_beliefs(ray.get(shares[index]), policy)

        for index, scores in on_learners(self.learner_group, score):
            for episode, scores_TK in zip(episodes[index::count], scores, strict=True):
                enter_scores(episode.custom_data["rollout"], scores_TK, self.config.belief_scoring.policy)
        return time.perf_counter() - started

    def _learn(self, episodes: list) -> tuple[dict[tuple[str, int], TurnCredit], list[GroupCredit]]:
        sampled = self.metrics.peek(
            (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME)
        )  # this batch's turns among them
        shards = shard_groups(episodes, max(1, self.config.num_learners))
        if self.config.num_learners <= 1:
            data = TrainingData(episodes=shards[0])
        else:
            data = TrainingData(episodes_refs=[ray.put(shard) for shard in shards])
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: sampled}
        with self._learning:
            results = self.learner_group.update(training_data=data, timesteps=timesteps, num_epochs=1)
            self._weights_version += 1
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        credit: dict[tuple[str, int], TurnCredit] = {}
        groups: list[GroupCredit] = []
        for learner_credit, learner_groups in on_learners(
            self.learner_group, lambda learner: learner.take_credit()
        ):
            credit |= learner_credit
            groups += learner_groups
        return credit, groups

    # -- weights --

    _weights_version = 0

    @property
    def weights_version(self) -> int:
        """Updates that the learner's weights have had; the engines hold this version before every
        sampling.
        """
        return self._weights_version

    def push_weights(self, runner_ids: list[int] | None = None) -> int:
        """Loads the learner's weights into the engines (of `runner_ids`; None: of all), waits, and verifies
        the version.

        Returns their bytes. Raises RuntimeError where an engine holds another version afterwards.
        """
        with self._learning:
            return self._weight_push.push(self._weights_version, runner_ids)

    def restore_env_runners(self, env_runner_group) -> list[int]:
        """Brings restarted runners back with the learner's current weights."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self.push_weights(restored)
        return restored

    # -- evaluation --

    def evaluate(self, parallel_train_future=None) -> dict[str, float]:
        """Greedy rollouts of the held-out questions (the first `evaluation_questions`) with the current
        weights.
        """
        with self._failure_reported():
            return self._evaluate(self.iteration)

    def _run_one_evaluation(self, parallel_train_future=None) -> dict[str, Any]:
        """The evaluation within `train()`: RLlib counts the iteration only afterwards."""
        return {"evaluation": self._evaluate(self.iteration + 1)}

    def _evaluate(self, iteration: int) -> dict[str, float]:
        questions = self.task.heldout_questions[: self.config.evaluation_questions]
        record = self.rollout_questions(questions)
        record.iteration = iteration
        self.records.append(record)
        check_tools(record.rollouts, self.config.max_tool_error_share, "in the held-out evaluation")
        scores = evaluation_metrics(record.rollouts) | {"seconds_evaluate": record.seconds["evaluate"]}
        make_callback(
            "on_evaluate_end",
            self.callbacks,
            self.config.callbacks_on_evaluate_end,  # ty: ignore[invalid-argument-type]
            kwargs={"algorithm": self, "metrics_logger": self.metrics, "evaluation_metrics": scores},
        )
        return scores

    def rollout_questions(
        self, questions: list[Question], *, samples: int = 1, temperature: float = 0.0
    ) -> IterationRecord:
        """`samples` rollouts of each question, not scored; the record's split is "heldout"."""
        started = time.perf_counter()
        jobs = heldout_jobs(questions, samples=samples, temperature=temperature, seed=self.config.seed)
        groups, _ = self.sampler.sample(jobs)
        rollouts = [record.rollout for group in groups for record in group]
        seconds = {"evaluate": time.perf_counter() - started}
        return IterationRecord(self.iteration, "heldout", self.weights_version, rollouts, seconds=seconds)

    # -- callbacks --

    @contextmanager
    def _failure_reported(self) -> Generator[None]:
        try:
            yield
        except Exception:
            for callback in self._own_callbacks():
                callback.on_failure(algorithm=self)
            raise

    def cleanup(self) -> None:
        try:
            for callback in self._own_callbacks():
                callback.on_stop(algorithm=self)
        finally:
            super().cleanup()

    def _own_callbacks(self) -> list[IGPOCallback]:
        return [callback for callback in self.callbacks if isinstance(callback, IGPOCallback)]

    # -- checkpoints --

    def get_state(self, components=None, *, not_components=None, **kwargs) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        return {
            **state,
            "igpo": {
                "cursor": self.cursor.state(),
                WEIGHTS_SEQ_NO: self._weights_version,
                "ahead": self._ahead,
            },
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        if "igpo" in state:
            self.cursor.restore(state["igpo"]["cursor"])
            self._weights_version = state["igpo"][WEIGHTS_SEQ_NO]
            self._ahead = state["igpo"].get("ahead")

    def save_to_path(self, path=None, **kwargs) -> str:
        """As RLlib's, with a plain Hugging Face folder per module in `hf/`."""
        if self.config.shard_learner:
            on_learners(self.learner_group, lambda learner: learner.stage_state())
        path = super().save_to_path(path, **kwargs)
        self.export_hf(Path(path) / HF_FOLDER)
        return path

    def restore_from_path(self, path, *args, **kwargs) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self.push_weights()

    def export_hf(self, folder: Path) -> None:
        """Writes `folder/MODULE_ID/`: weights, configuration and tokenizer, loadable by transformers and
        vLLM.
        """
        target = str(Path(folder).absolute())

        def export(learner):
            for module_id in learner.module.keys():  # noqa: SIM118 (not a dict)
                module = learner.module[module_id].unwrapped()
                if not learner._learner_index:
                    module.save_pretrained(f"{target}/{module_id}")
                elif learner.config.shard_learner:
                    module.save_pretrained(None)

        on_learners(self.learner_group, export)
        for module_id in self.config.policies:
            self.task.protocol.tokenizer.save_pretrained(f"{target}/{module_id}")


register_trainable("IGPO", IGPO)
