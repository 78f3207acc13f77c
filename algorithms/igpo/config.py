"""`IGPOConfig`: how the settings of IGPO are given, section by section, and what RLlib builds from them."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from algorithms.credit import CREDIT_FIELDS
from algorithms.igpo.guards import MAX_LOGP_GAP
from algorithms.igpo.loss_settings import LOSS_FIELDS
from algorithms.igpo.setting_names import RENAMED
from algorithms.igpo.settings import IGPOSettings
from algorithms.igpo.validation import (
    check_combinations,
    check_effects,
    check_numbers,
    map_roles_to_policies,
)
from envs.engine.models import resolve_model
from envs.errors import InputError
from envs.search.environment import TOKENS
from envs.settings import declared_settings, with_declared

SECTIONS = {
    "env_runners": ("engine",),
    "learners": ("tokens_per_micro_batch", "shard_learner", "offload_optimizer"),
    "rl_module": (
        "model_path",
        "model_dtype",
        "trust_remote_code",
        "gradient_checkpointing",
        "compile_learner",
        "lora",
    ),
    "evaluation": ("evaluation_questions",),
    "reporting": ("log_tokens",),
}
"""Settings of IGPO that belong to a section of RLlib's other than `training`, by the section's method."""

RLLIB_SETTINGS: dict[str, Any] = {
    # Episodes are ragged lists of token ids: made into arrays they would be broadcast, and the stock
    # connectors stack them.
    "episodes_to_numpy": False,
    "add_default_connectors_to_learner_pipeline": False,
    "add_default_connectors_to_env_to_module_pipeline": False,
    "add_default_connectors_to_module_to_env_pipeline": False,
    # A runner holds an engine: none in the driver beside those that sample, and none for evaluation.
    "create_local_env_runner": False,
    # Weights are pushed by `IGPO.push_weights`, which waits and verifies; runners have no other state to
    # share.
    "merge_env_runner_states": False,
    "_dont_auto_sync_env_runner_states": True,
    # RLlib drops a call in silence where an earlier one of its kind is not fetched yet.
    "max_requests_in_flight_per_env_runner": 8,
    # A rollout may be slow; RLlib would throw it away.
    "sample_timeout_s": None,
    "delay_between_env_runner_restarts_s": 0.0,
    # The learner has refused gradients that are not finite already; RLlib would look at each of them again.
    "torch_skip_nan_gradients": True,
}
"""RLlib's own settings that IGPO needs other than RLlib's defaults, and why. An experiment has no reason to
change them."""


class IGPOConfig(IGPOSettings):
    """Configuration of `IGPO`.

    `algorithms.igpo.settings.IGPOSettings` lists the settings and their defaults. The methods set them, each
    in the section where RLlib has its kind; a key of an experiment file's `config:` is an attribute.

    >>> config = IGPOConfig().rl_module(model_path="tiny").training(preset="grpo", lr=1e-5)
    >>> config.env_runners(num_env_runners=1, engine={"max_num_seqs": 64}).group_size
    8
    """

    def __init__(self, algo_class: type | None = None):
        from algorithms.igpo.algorithm import IGPO
        from envs.runner.env_runner import IGPOEnvRunner

        super().__init__(algo_class=algo_class or IGPO)
        self.env = "search"
        self.env_runner_cls = IGPOEnvRunner
        self.num_env_runners = 1
        self.observation_space = self.action_space = TOKENS
        for name, value in RLLIB_SETTINGS.items():
            setattr(self, name, value)

    # -- sections --

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        preset=NotProvided,
        credit=NotProvided,
        loss=NotProvided,
        belief_policy=NotProvided,
        belief_method=NotProvided,
        reference_refresh_interval=NotProvided,
        mismatch_cap=NotProvided,
        prompts_per_iteration=NotProvided,
        group_size=NotProvided,
        max_resample=NotProvided,
        num_minibatches=NotProvided,
        lr_warmup_iterations=NotProvided,
        lr_decay=NotProvided,
        lr_decay_iterations=NotProvided,
        lr_final_share=NotProvided,
        weight_decay=NotProvided,
        adam_betas=NotProvided,
        adam_eps=NotProvided,
        max_weight_lag=NotProvided,
        max_logp_gap=NotProvided,
        max_tool_error_share=NotProvided,
        **kwargs,
    ) -> IGPOConfig:
        """Sets the estimator, the batch and the update.

        Args:
            preset: name of the estimator, one of `algorithms.credit.PRESETS`, or `module:function` of one's
                own.
            credit: dict of `CreditConfig` fields that differ from the preset's, such as `{"gamma": 0.95}`.
            loss: dict of `LossSettings` fields that differ from the preset's, such as `{"clip_high": 0.28}`.
            belief_policy: whose belief is scored, "current" or "reference".
            belief_method: how belief is scored, "vllm_prefix", "tree" or "naive".
            reference_refresh_interval: iterations between refreshes of the reference policy; 0: never.
            mismatch_cap: C of the mismatch weight min(pi_old / pi_sampler, C); 0 turns the weight off.
            prompts_per_iteration: prompts in one batch.
            group_size: G, rollouts per prompt.
            max_resample: rounds in which `dapo` replaces collapsed groups.
            num_minibatches: updates that one pass over the batch is cut into; None: as the preset says.
            lr_warmup_iterations: batches over which the learning rate rises to `lr`.
            lr_decay: how it falls after that, "none", "linear" or "cosine".
            lr_decay_iterations: number of the batch after which it has fallen.
            lr_final_share: share of `lr` that is left then.
            weight_decay: AdamW's weight decay.
            adam_betas: AdamW's two decay rates.
            adam_eps: added to the root of AdamW's mean square.
            max_weight_lag: 1 samples the next batch while the learner updates; 0 waits for the update.
            max_logp_gap: largest mean log-prob gap of sampler and learner before the run stops, nats.
            max_tool_error_share: largest share of failed tool calls before the run stops.
            **kwargs: RLlib's own settings (lr, grad_clip, num_epochs, ...), any setting of `SECTIONS`, and
                the fields of `credit` and `loss` by their names.

        Returns:
            This configuration.

        Raises:
            InputError: `credit` or `loss` holds an unknown setting.
        """
        own = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
        for section, names in SECTIONS.items():
            given = {name: kwargs.pop(name) for name in names if name in kwargs}
            if given:
                getattr(self, section)(**given)
        direct = (*RENAMED, *CREDIT_FIELDS, *LOSS_FIELDS)
        own |= {name: kwargs.pop(name) for name in direct if name in kwargs}
        super().training(**kwargs)
        for known, changes in ((CREDIT_FIELDS, credit), (LOSS_FIELDS, loss)):
            for name, value in (changes if changes is not NotProvided else {}).items():
                if name not in known:
                    raise InputError(
                        f"training() got the unknown setting {name!r}; known: {', '.join(known)}"
                    )
                own[name] = value
        return self._set(**own)

    @override(AlgorithmConfig)
    def env_runners(self, *, engine=NotProvided, **kwargs) -> IGPOConfig:
        """Sets how rollouts are made.

        Args:
            engine: dict of `envs.engine.base.EngineSettings`, such as `{"max_num_seqs": 128}`.
            **kwargs: RLlib's own settings (num_env_runners, num_gpus_per_env_runner, ...).
        """
        super().env_runners(**kwargs)
        return self._set(engine=engine)

    @override(AlgorithmConfig)
    def learners(
        self,
        *,
        tokens_per_micro_batch=NotProvided,
        shard_learner=NotProvided,
        offload_optimizer=NotProvided,
        **kwargs,
    ) -> IGPOConfig:
        """Sets how the update is spread over devices and memory.

        Args:
            tokens_per_micro_batch: most tokens in one forward and backward pass.
            shard_learner: whether the model is spread over the learners (FSDP2).
            offload_optimizer: whether the optimizer's state waits in host memory.
            **kwargs: RLlib's own settings (num_learners, num_gpus_per_learner, ...).
        """
        super().learners(**kwargs)
        return self._set(
            tokens_per_micro_batch=tokens_per_micro_batch,
            shard_learner=shard_learner,
            offload_optimizer=offload_optimizer,
        )

    @override(AlgorithmConfig)
    def rl_module(
        self,
        *,
        model_path=NotProvided,
        model_dtype=NotProvided,
        trust_remote_code=NotProvided,
        gradient_checkpointing=NotProvided,
        compile_learner=NotProvided,
        lora=NotProvided,
        **kwargs,
    ) -> IGPOConfig:
        """Sets the model.

        Args:
            model_path: a Hugging Face folder or hub name, `tiny` or `smollm2`.
            model_dtype: precision of the forward passes, "float32" or "bfloat16".
            trust_remote_code: whether a model may run code that its repository ships.
            gradient_checkpointing: whether activations are computed again in the backward pass.
            compile_learner: whether the learner's model is compiled with `torch.compile`.
            lora: dict of `LoraSettings`, such as `{"rank": 16}`; None trains all weights. `multi_agent` takes
                one for each policy.
            **kwargs: RLlib's own settings (algorithm_config_overrides_per_module, ...).
        """
        super().rl_module(**kwargs)
        return self._set(
            model_path=model_path,
            model_dtype=model_dtype,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
            compile_learner=compile_learner,
            lora=lora,
        )

    @override(AlgorithmConfig)
    def multi_agent(self, *, policies=NotProvided, **kwargs) -> IGPOConfig:
        """Sets the policies.

        Args:
            policies: as RLlib takes them; or {policy id: dict of settings of it alone}, such as
                `{"searcher": {"lora": {"rank": 16}}, "reader": {"lr": 1e-5}}`, for policies that roles name.
            **kwargs: RLlib's own settings (policy_mapping_fn, policies_to_train, ...).
        """
        if isinstance(policies, dict) and all(
            own is None or isinstance(own, dict) for own in policies.values()
        ):
            known = self.algorithm_config_overrides_per_module
            added = {policy: {**known.get(policy, {}), **(own or {})} for policy, own in policies.items()}
            self.algorithm_config_overrides_per_module = {**known, **added}
            policies = NotProvided
        if policies is not NotProvided:
            kwargs["policies"] = policies
        super().multi_agent(**kwargs)
        return self

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict) -> IGPOConfig:
        """Takes settings by name; `policies` as `multi_agent` does."""
        super().update_from_dict({key: value for key, value in config_dict.items() if key != "policies"})
        return self.multi_agent(policies=config_dict.get("policies", NotProvided))

    @override(AlgorithmConfig)
    def evaluation(self, *, evaluation_questions=NotProvided, **kwargs) -> IGPOConfig:
        """Sets the held-out evaluation. Every key of an experiment file that begins with `evaluation_` comes
        here.

        Args:
            evaluation_questions: number of held-out questions, the first ones; None: all.
            **kwargs: RLlib's own settings (evaluation_interval, ...).
        """
        super().evaluation(**kwargs)
        return self._set(evaluation_questions=evaluation_questions)

    @override(AlgorithmConfig)
    def reporting(self, *, log_tokens=NotProvided, **kwargs) -> IGPOConfig:
        """Sets what a run reports.

        Args:
            log_tokens: whether training rollouts leave their token ids and log-probs for the rollout log.
            **kwargs: RLlib's own settings.
        """
        super().reporting(**kwargs)
        return self._set(log_tokens=log_tokens)

    def _set(self, **settings: Any) -> IGPOConfig:
        for name, value in settings.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    # -- what RLlib asks of a configuration --

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Derives the policies from the roles and checks every setting. Raises InputError or ValueError."""
        if not self.in_evaluation:
            check_effects(self, IGPOConfig())
        check_numbers(self)
        map_roles_to_policies(self)
        super().validate()
        self.credit_config()
        self.loss_settings()
        self.belief_scoring  # noqa: B018 (parsing it checks it)
        self.engine_settings  # noqa: B018
        if self.model_dtype not in MAX_LOGP_GAP:
            raise InputError(f"model_dtype is {self.model_dtype!r}; use one of {', '.join(MAX_LOGP_GAP)}")
        check_combinations(self)

    @override(AlgorithmConfig)
    def get_default_learner_class(self):
        from algorithms.igpo.learner.learner import IGPOTorchLearner

        return IGPOTorchLearner

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        from algorithms.igpo.model.causal_lm import HFCausalLM

        return RLModuleSpec(
            module_class=HFCausalLM,
            model_config={
                "path": resolve_model(self.model_path),
                "dtype": self.model_dtype,
                "trust_remote_code": self.trust_remote_code,
                "gradient_checkpointing": self.gradient_checkpointing,
                "compile": self.compile_learner,
                "lora": self.lora,
                "entropy_grad": self.loss_settings().entropy_coeff > 0,
                "published_names": self.engine_settings.kind == "vllm",
            },
        )

    @override(AlgorithmConfig)
    def get_multi_rl_module_spec(self, **kwargs) -> MultiRLModuleSpec:
        from algorithms.igpo.model.one_base import ModulesOfOneBase

        spec, adapters = super().get_multi_rl_module_spec(**kwargs), self.adapters
        modules: Any = spec.rl_module_specs
        for policy, module in modules.items() if self.lora or adapters.by_policy else ():
            module.model_config = {**module.model_config, **adapters.model_config(policy)}
        if adapters.sharing:
            spec.multi_rl_module_class = ModulesOfOneBase
        return spec


_NO_SETTINGS = ("self", "kwargs", "credit", "loss", "__class__")


IGPOConfig.training.__doc__ = with_declared(
    IGPOConfig.training.__doc__ or "",
    {
        "credit": declared_settings("algorithms.credit.config", "CreditConfig"),
        "loss": declared_settings("algorithms.igpo.loss_settings", "LossSettings"),
    },
)
