"""Names of settings, without Ray: what IGPO takes from RLlib, what it refuses, and old names.

The old names at the end are accepted for one release; they then go.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)


def _names(text: str) -> list[str]:
    return text.split()


# -- settings of RLlib --

FROM_RLLIB: dict[str, tuple[str, Any, str]] = {
    "num_env_runners": (
        "whole number",
        1,
        "Actors that make rollouts, each with an engine per policy; 0: the driver makes them.",
    ),
    "num_cpus_per_env_runner": ("number", 1, "CPU cores that Ray reserves for each env runner."),
    "num_gpus_per_env_runner": ("number", 0, "GPUs of each env runner, for its engines; may be a fraction."),
    "custom_resources_per_env_runner": ("keys", {}, "Ray's custom resources of each env runner."),
    "num_learners": ("whole number", 0, "Learner actors; 0: the driver learns."),
    "num_gpus_per_learner": ("number", 0, "GPUs of each learner; may be a fraction."),
    "num_cpus_per_learner": ("number or auto", "auto", "CPU cores that Ray reserves for each learner."),
    "custom_resources_per_learner": ("keys", {}, "Ray's custom resources of each learner."),
    "local_gpu_idx": ("whole number", 0, "Which of its GPUs a learner in the driver takes."),
    "num_cpus_for_main_process": ("whole number", 1, "CPU cores of the driver, where Tune places a trial."),
    "custom_resources_for_main_process": ("keys", {}, "Ray's custom resources of the driver, under Tune."),
    "placement_strategy": ("text", "PACK", "How Tune spreads a trial's actors over machines."),
    "env_config": ("keys", {}, "The task; its own section below."),
    "policies_to_train": ("list of text", None, "Policies that learn; null: all."),
    "policies": (
        "keys",
        {},
        "Settings of one policy alone, such as `{searcher: {lora: {rank: 16}}, reader: {lr: 1e-5}}`: "
        "lr, lora, grad_clip, kl_coeff and others of the loss. The roles name the policies.",
    ),
    "algorithm_config_overrides_per_module": ("keys", {}, "RLlib's word for `policies`."),
    "evaluation_interval": (
        "whole number",
        None,
        "Iterations between held-out evaluations, one before the first included; null or 0: none.",
    ),
    "log_gradients": ("true or false", False, "Whether the learner also logs the norms of gradients."),
    "restart_failed_env_runners": ("true or false", True, "Whether a lost env runner is started again."),
    "ignore_env_runner_failures": ("true or false", False, "Whether a run goes on without a lost one."),
    "max_num_env_runner_restarts": ("whole number", 1000, "Restarts of env runners in a run."),
    "delay_between_env_runner_restarts_s": ("number", 0.0, "Seconds before a lost env runner is restarted."),
    "env_runner_health_probe_timeout_s": ("number", 30.0, "Seconds in which an env runner must answer."),
    "env_runner_restore_timeout_s": ("number", 1800.0, "Seconds that a restarted env runner may take."),
    "num_consecutive_env_runner_failures_tolerance": (
        "whole number",
        100,
        "Failures in a row of an env runner after which the run ends.",
    ),
    "validate_env_runners_after_construction": (
        "true or false",
        True,
        "Whether env runners are asked once whether they live.",
    ),
}
"""Settings of RLlib that act here besides those of `IGPOSettings`: type, default, meaning."""

CODE = frozenset(
    _names(
        """algo_class env_runner_cls callbacks_class policy_mapping_fn stats_cls_lookup
callbacks_on_algorithm_init callbacks_on_train_result callbacks_on_evaluate_start
callbacks_on_evaluate_end callbacks_on_checkpoint_loaded callbacks_on_env_runners_recreated"""
    )
)
"""Settings of RLlib that act here and hold classes or functions: a Python experiment file sets them."""

FIXED = frozenset(
    _names(
        """env observation_space action_space framework_str episodes_to_numpy create_local_env_runner
add_default_connectors_to_learner_pipeline add_default_connectors_to_env_to_module_pipeline
add_default_connectors_to_module_to_env_pipeline merge_env_runner_states
max_requests_in_flight_per_env_runner sample_timeout_s torch_skip_nan_gradients in_evaluation
enable_rl_module_and_learner enable_env_runner_and_connector_v2"""
    )
)
"""Settings of RLlib to which IGPO gives the one value that works."""

_OLD_STACK = "it belongs to RLlib's old API stack"
_OFFLINE = "IGPO reads and writes no offline data; the rollout log is `rollout_log`"
_EPISODES = "rollouts are whole episodes"
_EVALUATION = "set `evaluation_questions` and `evaluation_interval`"
_RUNNERS = "the runners of `num_env_runners` evaluate too"
_COMPILE = "set `compile_learner`"
_ONE_BATCH = "an iteration is one batch, as the rollout log keeps it: set `prompts_per_iteration`"

WITHOUT_EFFECT: dict[str, str] = {
    "train_batch_size": "set `prompts_per_iteration` and `group_size`",
    "train_batch_size_per_learner": "set `prompts_per_iteration` and `group_size`",
    "_train_batch_size_per_learner": "set `prompts_per_iteration` and `group_size`",
    "minibatch_size": "set `num_minibatches` (updates per batch) or `tokens_per_micro_batch` (memory)",
    "shuffle_batch_per_epoch": "the learner cuts and shuffles its batch itself",
    "num_envs_per_env_runner": "set `engine.max_num_seqs`",
    "num_gpus": "set `num_gpus_per_learner` and `num_gpus_per_env_runner`",
    "optimizer": "it is AdamW: set `lr`, `weight_decay` and `adam_betas`",
    "torch_ddp_kwargs": "several learners add up their gradients themselves",
    "learner_config_dict": "nothing reads it: set the learner's settings by their names",
    "log_level": "give `-v` or `-vv` on the command line",
    "log_sys_usage": "the rollout log names the hardware",
    "model": "the model is `model_path`",
    "explore": "training samples at temperature 1, evaluation is greedy",
    "exploration_config": "training samples at temperature 1",
    "framework": "it is torch",
    "evaluation_duration": "set `evaluation_questions`",
    "evaluation_parallel_to_training": "set `max_weight_lag` to sample during the update",
    "evaluation_config": "held-out questions are answered greedily, under the same settings",
    "evaluation_num_env_runners": _RUNNERS,
    "metrics_num_episodes_for_smoothing": "every metric is of one iteration",
    "keep_per_episode_custom_metrics": "the rollout log keeps every episode",
    "checkpoint_trainable_policies_only": "checkpoints are complete",
    "export_native_model_files": "checkpoints hold a Hugging Face folder `hf`",
    "num_aggregator_actors_per_learner": "whole groups go to the learners",
    "extra_python_environs_for_driver": "set variables of the environment before the start",
    "extra_python_environs_for_worker": "set variables of the environment before the start",
    "custom_evaluation_function": "evaluation answers the held-out questions",
    **dict.fromkeys(
        _names(
            """min_time_s_per_iteration min_train_timesteps_per_iteration
min_sample_timesteps_per_iteration"""
        ),
        _ONE_BATCH,
    ),
    **dict.fromkeys(
        _names(
            """torch_compile_learner torch_compile_learner_what_to_compile
torch_compile_learner_dynamo_backend
torch_compile_learner_dynamo_mode torch_compile_worker torch_compile_worker_dynamo_backend
torch_compile_worker_dynamo_mode"""
        ),
        _COMPILE,
    ),
    **dict.fromkeys(
        _names(
            """rollout_fragment_length batch_mode episode_lookback_horizon count_steps_by
callbacks_on_environment_created callbacks_on_episode_created callbacks_on_episode_start
callbacks_on_episode_step callbacks_on_episode_end callbacks_on_sample_end"""
        ),
        _EPISODES,
    ),
    **dict.fromkeys(
        _names(
            """evaluation_duration_unit evaluation_sample_timeout_s
evaluation_auto_duration_min_env_steps_per_sample
evaluation_auto_duration_max_env_steps_per_sample evaluation_unhealthy_workers_timeout_s
evaluation_error_after_n_consecutive_skips evaluation_force_reset_envs_before_iteration"""
        ),
        _EVALUATION,
    ),
    **dict.fromkeys(
        _names(
            """clip_rewards normalize_actions clip_actions disable_env_checking render_env action_mask_key
gym_env_vectorize_mode create_env_on_local_worker restart_failed_sub_environments
broadcast_env_runner_states use_env_runner_state_server env_runner_state_server_max_concurrency
max_requests_in_flight_per_aggregator_actor max_requests_in_flight_per_learner"""
        ),
        "IGPO's own env runner and update do without it",
    ),
    **dict.fromkeys(
        _names(
            """eager_tracing eager_max_retraces tf_session_args local_tf_session_args compress_observations
remote_worker_envs remote_env_batch_wait_ms enable_tf1_exec_eagerly sample_collector
preprocessor_pref observation_filter update_worker_filter_stats use_worker_filter_stats
sampler_perf_stats_ema_coef policy_map_capacity policy_states_are_swappable observation_fn
sync_filters_on_rollout_workers_timeout_s metrics_episode_collection_timeout_s fake_sampler
replay_sequence_length"""
        ),
        _OLD_STACK,
    ),
    **dict.fromkeys(
        _names(
            """input_ offline_data_class input_read_method input_read_method_kwargs input_read_schema
input_read_episodes input_read_sample_batches input_read_batch_size input_filesystem
input_filesystem_kwargs input_compress_columns input_spaces_jsonable materialize_data
materialize_mapped_data map_batches_kwargs iter_batches_kwargs ignore_final_observation
prelearner_class prelearner_buffer_class prelearner_buffer_kwargs prelearner_module_synch_period
prelearner_use_recorded_module_states dataset_num_iters_per_learner input_config
actions_in_input_normalized postprocess_inputs shuffle_buffer_size output output_config
output_compress_columns output_max_file_size output_max_rows_per_file
output_write_remaining_data output_write_method output_write_method_kwargs output_filesystem
output_filesystem_kwargs output_write_episodes offline_sampling off_policy_estimation_methods
ope_split_batch_by_episode offline_evaluation_interval num_offline_eval_runners
offline_evaluation_type offline_eval_runner_class offline_loss_for_module_fn
offline_evaluation_duration offline_evaluation_parallel_to_training offline_evaluation_timeout_s
num_cpus_per_offline_eval_runner num_gpus_per_offline_eval_runner
custom_resources_per_offline_eval_runner restart_failed_offline_eval_runners
ignore_offline_eval_runner_failures max_num_offline_eval_runner_restarts
offline_eval_runner_restore_timeout_s max_requests_in_flight_per_offline_eval_runner
validate_offline_eval_runners_after_construction offline_eval_runner_health_probe_timeout_s
offline_eval_rl_module_inference_only broadcast_offline_eval_runner_states
offline_eval_batch_size_per_runner dataset_num_iters_per_eval_runner
callbacks_on_offline_eval_runners_recreated callbacks_on_evaluate_offline_start
callbacks_on_evaluate_offline_end"""
        ),
        _OFFLINE,
    ),
}
"""Settings of RLlib that IGPO ignores, and what to set instead or why. An experiment may not set them."""

OF_ONE_POLICY = (
    "lr",
    "grad_clip",
    "clip_low",
    "clip_high",
    "dual_clip",
    "ratio_level",
    "kl_coeff",
    "mismatch_cap",
    "lora",
)
"""Settings that may differ between policies (`policies`). All others belong to the batch or to the model,
which policies share."""

RLLIB_WORDS = {"callbacks": "callbacks_class", "framework": "framework_str", "num_workers": "num_env_runners"}
"""Names under which RLlib takes one of its settings too."""

# -- old names --

RENAMED = {"scorer": "belief_policy", "scoring": "belief_method"}
"""Old name to new name."""


class RenamedSetting:
    """The old name of a setting, as a class attribute: reads and writes the setting under its new name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name

    def __get__(self, config: Any, owner: type | None = None) -> Any:
        return self if config is None else getattr(config, RENAMED[self._old])

    def __set__(self, config: Any, value: Any) -> None:
        if value is not None:  # the configuration file of an old run names every setting, most of them null
            _warn(self._old)
        setattr(config, RENAMED[self._old], value)


def with_new_names(state: dict[str, Any]) -> dict[str, Any]:
    """Replaces the old names among the attributes of a stored configuration."""
    return {RENAMED.get(name, name): value for name, value in state.items()}


@cache
def _warn(old: str) -> None:
    logger.warning(
        "the setting `%s` is now called `%s`; the next release will not know the old name", old, RENAMED[old]
    )
