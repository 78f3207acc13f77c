"""`IGPO`, RLlib's algorithm class.

One training step draws prompts, rolls out whole groups, learns from them and pushes the new weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
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
from algorithms.igpo.iteration_record import GroupCredit, IterationRecord, TurnCredit, token_texts
from algorithms.igpo.learner.token_batch import turn_tokens
from algorithms.igpo.learner_calls import score_on_learners, take_credit, training_data
from algorithms.igpo.metrics import (
    Stopwatch,
    agent_metrics,
    batch_metrics,
    evaluation_metrics,
    iteration_seconds,
    learner_metrics,
    training_metrics,
)
from algorithms.igpo.remote import failures_raised, in_background, on_learners, on_runners, starting
from algorithms.igpo.sampling import GroupSampler, SampledBatch, heldout_jobs, sample_batch
from algorithms.igpo.weights.between_nodes import folders_of_any_size
from algorithms.igpo.weights.colocation import check_pairing
from algorithms.igpo.weights.export import export_hf, folder_of, located
from algorithms.igpo.weights.push import WeightPush
from algorithms.igpo.weights.restoring import check_policies
from envs.data.question import Question
from envs.search.environment import SearchEnv
from envs.search.task import SearchTask

logger = logging.getLogger(__name__)

HF_FOLDER = "hf"
"""Folder of a checkpoint that holds a plain Hugging Face folder per module."""
register_env("search", lambda config: SearchEnv(config))


class IGPO(Algorithm):
    """Information Gain-based Policy Optimization (arXiv 2510.14967) and its relatives (`config.preset`).

    Attributes:
        records: the records of the last `train()` or `evaluate()`, for logs: rollouts, and the credit that
            training used. A call that raised leaves the rollouts it had.
        begins_run: whether a state that is restored comes from another run. Where this run's training
            questions or their order (`seed`) are others, they then begin at their first. Otherwise other
            questions are refused, and the order stays.
    """

    config: IGPOConfig
    metrics: MetricsLogger
    callbacks: list[RLlibCallback]
    learner_group: LearnerGroup
    env_runner_group: EnvRunnerGroup
    begins_run: bool = False

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> IGPOConfig:
        return IGPOConfig()

    @classmethod
    @override(Algorithm)
    def _should_create_evaluation_env_runners(cls, eval_config) -> bool:
        return False  # the training runners evaluate: one engine, not two

    @override(Algorithm)
    def setup(self, config) -> None:
        self.records: list[IterationRecord] = []
        self._run = 0
        """Number of the run on these env runners (`reset_config`)."""
        with starting(self):
            super().setup(config)
        self._begin()

    def _begin(self) -> None:
        """Starts a run: loads its task, and gives the engines the learner's weights."""
        if self.config.is_colocated:
            check_pairing(self.config, self.learner_group, self.env_runner_group)
        self.task = SearchTask(self.config.env_settings())
        self.prompt_sampler = self.task.prompt_sampler(self.config.seed)
        timeout = self.config.env_runner_restore_timeout_s or 0.0
        runners, restore = self.env_runner_group, self.restore_env_runners
        self.sampler = GroupSampler(runners, self.push_weights, restore, timeout)
        self._ahead: SampledBatch | None = None
        """The next iteration's batch, where it was sampled during the update (`max_weight_lag`)."""
        self._weight_push = WeightPush(self.config, self.learner_group, runners, self._run)
        self._weights_lock = Lock()
        """Held while the learner's weights change or are pushed, so that no runner gets half of an update."""
        self._engine_identity = self.config.engine_identity
        self._weights_version = 0
        self.push_weights()

    @override(Algorithm)
    def reset_config(self, new_config: IGPOConfig | dict[str, Any]) -> bool:
        """Begins another run on the running engines. All else is fresh: weights, prompts, metrics, callbacks.

        This is Tune's hook for reusing actors. Call `reset`, which also resets Tune's own counters.

        Args:
            new_config: the other run's configuration, or a dict of its settings, as Tune gives it.

        Returns:
            False where the running engines do not fit; nothing is done then.
        """
        given = IGPOConfig().update_from_dict(new_config) if isinstance(new_config, dict) else new_config
        config = given.copy(copy_frozen=False)
        config.validate()
        config.freeze()
        if config.engine_identity != self._engine_identity:
            return False
        self._stop_callbacks()
        self.config = config
        self.callbacks = [make() for make in force_list(config.callbacks_class)]
        self._run = run = self._run + 1
        on_runners(self.env_runner_group, lambda runner: runner.begin_run(config, run), every=True)
        self.learner_group.shutdown()
        spaces = self.env_runner_group.get_spaces()
        spec = config.get_multi_rl_module_spec(spaces=spaces, inference_only=False)
        self.learner_group = config.build_learner_group(rl_module_spec=spec)
        self.metrics = MetricsLogger(root=True, stats_cls_lookup=config.stats_cls_lookup)  # ty: ignore[invalid-argument-type]
        self.records = []
        self._begin()
        functions: Any = config.callbacks_on_algorithm_init
        facts = {"algorithm": self, "metrics_logger": self.metrics}
        make_callback("on_algorithm_init", self.callbacks, functions, kwargs=facts)
        return True

    # -- one iteration --

    @override(Algorithm)
    def step(self) -> dict[str, Any]:
        self.records = []
        with self._failure_reported():
            result = super().step()
        result["igpo"] = {name: float(value) for name, value in result["igpo"].items()}
        return result

    @override(Algorithm)
    def training_step(self) -> None:
        """Draws prompts and rolls out whole groups, learns from them, and pushes the new weights."""
        clock, version = Stopwatch(), self.weights_version
        with clock("total"):
            batch, following = self._roll_out()
            rollouts = [episode.custom_data["rollout"] for episode in batch.episodes]
            record = IterationRecord(self.iteration + 1, "train", batch.weights_version, rollouts)
            self.records.append(record)
            check_tools(rollouts, self.config.max_tool_error_share)
            if self.config.is_colocated:
                with clock("swap"):
                    self._weight_push.give_device_to_learner()
            if not self.config.belief_scoring.on_engine:
                with clock("score"):
                    policy = self.task.answering_role.policy
                    score_on_learners(batch.episodes, self.learner_group, self.config, policy)
            with clock("learn"):
                record.credit, record.groups = self._learn(batch.episodes)
            metrics = training_metrics(rollouts, record.credit, record.groups, batch.replaced)
            metrics |= agent_metrics(rollouts, record.credit, [role.name for role in self.config.roles])
            metrics |= learner_metrics(self.metrics, list(self.config.policies))
            if batch.weights_version == version:
                check_gap(metrics["logp_gap_mean"], self.config.logp_gap_bound, version)
            if following is not None:
                with clock("wait"):
                    self._ahead = following.result()
            with clock("push"):
                pushed_bytes = self.push_weights()
        record.seconds = iteration_seconds(batch, clock.seconds, metrics.pop("seconds_credit"))
        metrics |= {f"seconds_{name}": value for name, value in record.seconds.items()}
        metrics |= batch_metrics(batch, record.groups, self.config.group_size, version, pushed_bytes)
        for name, value in metrics.items():
            self.metrics.log_value(("igpo", name), value, reduce="mean", window=1)
        if self.config.log_tokens:
            record.tokens = turn_tokens(batch.episodes)
            record.token_texts = token_texts(record.tokens.values(), self.task.protocol.tokenizer)

    def _roll_out(self) -> tuple[SampledBatch, Future | None]:
        """Returns this iteration's batch and, under `max_weight_lag`, a future of the next one's."""
        iteration, version = self.iteration + 1, self.weights_version
        sample = partial(sample_batch, self.config, self.task, self.prompt_sampler, self.sampler, version)
        batch, self._ahead = self._ahead or sample(iteration), None
        following = in_background(sample, iteration + 1) if self.config.max_weight_lag else None
        self.metrics.aggregate(batch.runner_metrics, key=ENV_RUNNER_RESULTS)
        return batch, following

    def _learn(self, episodes: list) -> tuple[dict[tuple[str, int], TurnCredit], list[GroupCredit]]:
        """Updates the policies. Returns the credit of every turn and the statistics of every group."""
        # RLlib's schedules count turns, those of this batch included.
        sampled = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: sampled}
        data = training_data(episodes, self.config.num_learners)
        with self._weights_lock:
            results = self.learner_group.update(training_data=data, timesteps=timesteps, num_epochs=1)
            self._weights_version += 1
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        return take_credit(self.learner_group)

    # -- weights --

    @property
    def weights_version(self) -> int:
        """Number of updates of the learner's weights. Engines hold this version before every sampling."""
        return self._weights_version

    def push_weights(self, runner_ids: list[int] | None = None) -> int:
        """Loads the learner's weights into all engines, and waits.

        Args:
            runner_ids: restarted runners, which get what the others hold; None: all.

        Returns:
            Bytes of the weights.

        Raises:
            RuntimeError: an engine holds another version afterwards.
        """
        if runner_ids is not None and self._weight_push.keeps_weights:
            return self._weight_push.repeat(runner_ids)
        with self._weights_lock:
            return self._weight_push.push(self._weights_version, runner_ids)

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group) -> list[int]:
        """Brings restarted runners back with the weights that the others hold. Returns their ids."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self.push_weights(restored)
        return restored

    # -- evaluation --

    @override(Algorithm)
    def evaluate(self, parallel_train_future=None) -> dict[str, float]:
        """Rolls out the first `evaluation_questions` held-out questions greedily. Returns their metrics."""
        with self._failure_reported():
            return self._evaluate(self.iteration)

    @override(Algorithm)
    def _run_one_evaluation(self, parallel_train_future=None) -> dict[str, Any]:
        """Evaluates within `train()`, before RLlib has counted the iteration."""
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

    def rollout_questions(self, questions: list[Question], *, temperature: float = 0.0) -> IterationRecord:
        """Rolls out each of `questions` once, without belief scoring.

        Args:
            questions: the questions to answer.
            temperature: 0 is greedy.

        Returns:
            A record with split "heldout". It is not added to `records`.
        """
        started = time.perf_counter()
        jobs = heldout_jobs(questions, samples=1, temperature=temperature, seed=self.config.seed)
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

    @override(Algorithm)
    def cleanup(self) -> None:
        try:
            self._stop_callbacks()
        finally:
            super().cleanup()

    def _stop_callbacks(self) -> None:
        for callback in self._own_callbacks():
            callback.on_stop(algorithm=self)

    def _own_callbacks(self) -> list[IGPOCallback]:
        return [callback for callback in self.callbacks if isinstance(callback, IGPOCallback)]

    # -- checkpoints --

    @override(Algorithm)
    def get_state(self, components=None, *, not_components=None, **kwargs) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        own = {
            "cursor": self.prompt_sampler.state(),
            WEIGHTS_SEQ_NO: self._weights_version,
            "ahead": self._ahead,
            "sampling_identity": self.config.sampling_identity,
        }
        return {**state, "igpo": own}

    @override(Algorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        """Restores a state, and pushes its weights if it has any. Colocated learners take their devices
        for that.
        """
        has_weights = COMPONENT_LEARNER_GROUP in state
        if has_weights and self.config.is_colocated:
            self._weight_push.give_device_to_learner()
        super().set_state(state)
        if "igpo" in state:
            own, identity = state["igpo"], self.config.sampling_identity
            cursor, self._ahead = own["cursor"], own.get("ahead")
            if self._ahead is not None and own.get("sampling_identity", identity) != identity:
                # A batch of other settings is none of this run's: its prompts are drawn again.
                cursor, self._ahead = self._ahead.drawn_from, None
            if self.begins_run and (other := self.prompt_sampler.differs_from(cursor)):
                logger.warning("the checkpoint saw %s: this run's training questions begin anew", other)
                self._ahead = None
            else:
                self.prompt_sampler.restore(cursor)
            self._weights_version = own[WEIGHTS_SEQ_NO]
        if has_weights:
            self.push_weights()

    @override(Algorithm)
    def save_to_path(self, path=None, *, filesystem=None, **kwargs) -> str:
        """Saves a checkpoint as RLlib does, with a plain Hugging Face folder per module in `hf/`.

        Args:
            path: a folder of this machine, or a URL of a file system that pyarrow knows; None: a new folder.
            filesystem: pyarrow's file system of `path`, where it is no URL.
            **kwargs: RLlib's other arguments.

        Returns:
            The folder, without the URL's scheme.
        """
        if self.config.shard_learner:
            on_learners(self.learner_group, lambda learner: learner.stage_state())
        with failures_raised(self.learner_group), folders_of_any_size():
            folder = super().save_to_path(path, filesystem=filesystem, **kwargs)
        with folder_of(f"{folder}/{HF_FOLDER}", filesystem or located(path)[0]) as exported:
            self.export_hf(exported)
        return folder

    @override(Algorithm)
    def restore_from_path(self, path, *args, filesystem=None, **kwargs) -> None:
        """Restores a checkpoint and pushes its weights. Colocated learners take their devices
        for that.

        Raises:
            InputError: the checkpoint lacks a policy of this algorithm or has it in another form (`lora`),
                or is of other questions.
        """
        check_policies(path, self.config.policy_ids, self.config.adapters.by_policy, filesystem)
        if self.config.is_colocated:
            self._weight_push.give_device_to_learner()
        # Skip Algorithm's version, which sends the weights through the driver too: sharded learners have none
        # to give it, and they would wake a colocated engine.
        with failures_raised(self.learner_group), folders_of_any_size():
            super(Algorithm, self).restore_from_path(path, *args, filesystem=filesystem, **kwargs)
        self.push_weights()

    def export_hf(self, folder: Path) -> None:
        """Writes a folder per module, `folder/MODULE_ID/`, that transformers and vLLM can load."""
        export_hf(self.learner_group, list(self.config.policies), self.task.protocol.tokenizer, folder)


register_trainable("IGPO", IGPO)
