"""The words of other trainers (TRL, verl, OpenRLHF) for what an experiment sets here under another name."""

from __future__ import annotations

_TURN = "`env_config.max_turn_tokens` (one turn) and `env_config.max_context_tokens` (a whole rollout)"
_STOP = "`stop`, such as `stop: {training_iteration: 200}`"
_CLIP = "`clip_low` and `clip_high`"
_LORA = "`lora`, such as `lora: {rank: 16, alpha: 32}`"
_MEMORY = "`tokens_per_micro_batch`, which bounds memory and does not change the update"
_SAMPLING = "no such setting: training samples at temperature 1 over the whole vocabulary"
_SECTION = "no such section: the settings stand in `config` itself, in `engine` and in `env_config`"
_ADAM = "`adam_betas`"
_GPUS = "`num_gpus_per_learner` and `num_gpus_per_env_runner`"
_MODEL = "`model_path`"

PEERS: dict[str, str] = {
    # the update
    **dict.fromkeys(("learning_rate", "actor_lr", "policy_lr"), "`lr`"),
    **dict.fromkeys(("warmup_steps", "lr_warmup_steps", "num_warmup_steps"), "`lr_warmup_iterations`"),
    **dict.fromkeys(
        ("warmup_ratio", "lr_warmup_ratio", "lr_warmup_steps_ratio"),
        "`lr_warmup_iterations`, a number of iterations",
    ),
    **dict.fromkeys(
        ("lr_scheduler_type", "lr_scheduler", "lr_schedule", "warmup_style"),
        "`lr_decay` (none, linear or cosine) with `lr_decay_iterations`",
    ),
    **dict.fromkeys(("min_lr_ratio", "min_lr", "min_lr_rate"), "`lr_final_share`"),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "betas"), _ADAM),
    **dict.fromkeys(("adam_epsilon", "adam_eps_value"), "`adam_eps`"),
    **dict.fromkeys(("optim", "optimizer_type"), "no such setting: the optimizer is AdamW (`weight_decay`)"),
    **dict.fromkeys(("max_grad_norm", "clip_grad", "gradient_clipping", "clip_grad_norm"), "`grad_clip`"),
    **dict.fromkeys(("num_iterations", "ppo_epochs", "num_sgd_iter", "epochs_per_batch"), "`num_epochs`"),
    **dict.fromkeys(
        ("ppo_mini_batch_size", "mini_batch_size", "num_mini_batches", "steps_per_generation"),
        "`num_minibatches`, the updates per batch",
    ),
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "gradient_accumulation_steps", "micro_batch_size",
            "ppo_micro_batch_size", "ppo_micro_batch_size_per_gpu", "micro_train_batch_size",
            "ppo_max_token_len_per_gpu", "log_prob_micro_batch_size_per_gpu",
        ),
        _MEMORY,
    ),
    **dict.fromkeys(("batch_size", "rollout_batch_size", "generation_batch_size", "gen_batch_size"),
                    "`prompts_per_iteration` (prompts) times `group_size` (rollouts of each)"),
    **dict.fromkeys(
        ("num_generations", "n_samples_per_prompt", "num_samples_per_prompt", "n", "rollout_n",
         "num_return_sequences", "num_rollouts"),
        "`group_size`",
    ),
    **dict.fromkeys(
        ("max_steps", "num_train_epochs", "total_epochs", "total_training_steps", "num_episodes",
         "total_steps", "training_iteration", "num_iterations_total", "epochs"),
        _STOP,
    ),
    # the loss
    **dict.fromkeys(
        ("beta", "kl_coef", "kl_beta", "kl_loss_coef", "init_kl_coef", "kl_loss_coeff", "use_kl_loss"),
        "`kl_coeff`",
    ),
    **dict.fromkeys(("entropy_coef", "ent_coef", "entropy_loss_coef"), "`entropy_coeff`"),
    **dict.fromkeys(("epsilon", "cliprange", "clip_ratio", "clip_param", "eps_clip", "clip_range"), _CLIP),
    **dict.fromkeys(("epsilon_high", "clip_ratio_high", "eps_clip_high"), "`clip_high`"),
    **dict.fromkeys(("epsilon_low", "clip_ratio_low", "eps_clip_low"), "`clip_low`"),
    **dict.fromkeys(("delta", "clip_ratio_c"), "`dual_clip`"),
    **dict.fromkeys(("loss_type", "loss_agg_mode"), "`loss_aggregation`"),
    "importance_sampling_level": "`ratio_level`",
    **dict.fromkeys(("tis_imp_ratio_cap", "vllm_importance_sampling_cap"), "`mismatch_cap`"),
    **dict.fromkeys(
        ("adv_estimator", "advantage_estimator", "algorithm_name", "estimator"), "`preset`"
    ),
    **dict.fromkeys(("scale_rewards", "norm_adv_by_std_in_grpo"), "`normalisation`"),
    **dict.fromkeys(("lam", "lambda_", "gae_lambda"), "`gamma`, the discount per turn"),
    **dict.fromkeys(("sync_ref_model", "ref_model_sync_steps"), "`reference_refresh_interval`"),
    # the model
    **dict.fromkeys(
        ("model_name_or_path", "model_name", "model_id", "pretrain", "base_model", "hf_model"), _MODEL
    ),
    **dict.fromkeys(("bf16", "fp16", "torch_dtype", "dtype", "mixed_precision", "precision"),
                    "`model_dtype` (float32 or bfloat16)"),
    **dict.fromkeys(
        ("use_peft", "peft_config", "lora_r", "lora_rank", "lora_alpha", "lora_target_modules",
         "target_modules"),
        _LORA,
    ),
    **dict.fromkeys(("torch_compile", "use_torch_compile"), "`compile_learner`"),
    **dict.fromkeys(("fsdp", "fsdp_config", "zero_stage", "deepspeed"), "`shard_learner`"),
    **dict.fromkeys(("optimizer_offload", "offload", "param_offload", "adam_offload"), "`offload_optimizer`"),
    **dict.fromkeys(("enable_gradient_checkpointing", "activation_checkpointing"),
                    "`gradient_checkpointing`"),
    # the engine
    **dict.fromkeys(
        ("vllm_gpu_memory_utilization", "gpu_memory_util", "mem_fraction_static"),
        "`engine.gpu_memory_utilization`",
    ),
    **dict.fromkeys(
        ("tensor_parallel_size", "vllm_tensor_parallel_size", "tensor_model_parallel_size", "tp_size", "tp"),
        "`engine.tensor_parallel_size`",
    ),
    **dict.fromkeys(("use_vllm", "rollout_backend", "backend"), "`engine.kind` (vllm or transformers)"),
    **dict.fromkeys(("vllm_mode", "colocate", "colocate_all_models"), "`engine.placement`"),
    **dict.fromkeys(("max_batch_size", "max_num_sequences", "vllm_max_num_seqs"), "`engine.max_num_seqs`"),
    **dict.fromkeys(("vllm_kwargs", "engine_kwargs", "vllm_args"), "`engine.vllm`"),
    **dict.fromkeys(("n_gpus_per_node", "nnodes", "num_gpus_per_node", "gpus", "n_gpus"), _GPUS),
    **dict.fromkeys(("num_workers", "num_rollout_workers"), "`num_env_runners`"),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty", "do_sample"), _SAMPLING),
    # the task
    **dict.fromkeys(
        ("max_tokens", "max_new_tokens", "max_completion_length", "max_response_length", "max_seq_len",
         "max_length", "max_prompt_length", "max_model_len", "max_seq_length", "generate_max_len"),
        _TURN,
    ),
    **dict.fromkeys(("max_assistant_turns", "max_user_turns", "max_steps_per_episode", "max_tool_calls"),
                    "`env_config.max_turns`"),
    **dict.fromkeys(("max_obs_length", "max_tool_response_length"), "`env_config.max_observation_tokens`"),
    **dict.fromkeys(
        ("reward_funcs", "reward_fn", "reward_model", "reward_function", "custom_reward_function", "reward"),
        "`env_config.outcome`",
    ),
    **dict.fromkeys(
        ("dataset_name", "dataset", "train_files", "train_data", "data_path", "train_dataset", "prompt_data"),
        "`env_config.questions`",
    ),
    **dict.fromkeys(("val_files", "eval_dataset", "test_files", "validation_data"),
                    "`env_config.heldout_questions`"),
    **dict.fromkeys(("system_prompt", "prompt_template"), "`instruction` of a role in `env_config.roles`"),
    **dict.fromkeys(("search_url", "retriever_url", "retrieval_url"), "`env_config.retriever.http.url`"),
    **dict.fromkeys(("topk", "num_documents"), "`env_config.retriever.top_k`"),
    # the run
    **dict.fromkeys(("output_dir", "default_local_dir", "save_dir", "save_path", "ckpt_path", "local_dir"),
                    "`storage_path`, beside `config`"),
    **dict.fromkeys(("save_steps", "save_freq", "save_interval"),
                    "`checkpoint_config.checkpoint_frequency`, beside `config`"),
    **dict.fromkeys(("save_total_limit", "max_ckpt_num", "keep_checkpoints"),
                    "`checkpoint_config.num_to_keep`, beside `config`"),
    **dict.fromkeys(("eval_steps", "test_freq", "eval_interval", "eval_frequency"), "`evaluation_interval`"),
    **dict.fromkeys(("eval_batch_size", "num_eval_episodes", "eval_episodes"), "`evaluation_questions`"),
    **dict.fromkeys(("report_to", "logger", "wandb", "use_wandb", "wandb_project"),
                    "`mlflow`, beside `config`; every run logs to MLflow"),
    **dict.fromkeys(("resume_from_checkpoint", "resume_mode", "load_checkpoint"),
                    "`restore`, beside `config`, or `--resume` on the command line"),
    **dict.fromkeys(("run_name", "experiment_name", "project_name"),
                    "no such setting: the first level of the file is the experiment's name"),
    **dict.fromkeys(("actor", "actor_rollout_ref", "rollout", "trainer", "data", "critic", "ref", "algorithm",
                     "training_args", "grpo_config"), _SECTION),
}  # fmt: skip
"""A word of theirs, in lower case, to what it is here: settings in quotes, and what to know."""


def _letters(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


_BY_LETTERS = {_letters(word): said for word, said in PEERS.items()}


def here(word: str) -> str | None:
    """Says what another trainer's word is here, as a sentence; None for a word that is not known.

    Case, hyphens and underscores make no difference: `learningRate` is `learning_rate`.
    """
    found = _BY_LETTERS.get(_letters(word))
    if found is None:
        return None
    return f"There is {found}." if found.startswith("no ") else f"Here it is {found}."
