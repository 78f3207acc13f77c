"""The load of an experiment: the sizes of its model, and the work of one iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from algorithms.igpo.model.supported import refusal
from envs.engine.lora import LoraSettings, served_rank, served_targets
from envs.engine.models import naming_shipped_code, resolve_model
from envs.errors import InputError
from pipeline.estimate.known_models import known_config
from pipeline.estimate.machines import on_one_gpu

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Model:
    """Sizes of a decoder-only transformer."""

    parameters: int
    trained: float
    """Parameters with a gradient, fewer than `parameters` with LoRA; a mean of the policies that learn."""
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    """Key heads times their width."""
    vocabulary: int
    heads: int = 0
    """Attention heads, which an engine's GPUs divide among them; 0: not known."""
    kv_heads: int = 0
    """Key heads, which an engine's GPUs divide among them as far as there are enough; 0: not known."""
    latent_width: int = 0
    """Width of the one entry that MLA caches for keys and values together; 0: both are cached."""
    frozen: float = 0.0
    """Parameters, beside the base of adapters, of the policies that do not learn, all together."""
    attention_width: int = 0
    """Heads times their width; 0: as `hidden`."""
    norms_heads: bool = False
    """Queries and keys are normalised, as in Qwen3."""
    expert_parameters: int = 0
    """Parameters in the experts of a mixture; 0: no mixture."""
    num_experts: int = 1
    """Experts of a layer."""
    chosen_experts: int = 1
    """Those that a token passes."""

    @property
    def used(self) -> float:
        """The share of the parameters that one token passes."""
        return self.read(1) / self.parameters

    def read(self, tokens: float) -> float:
        """Parameters that one of `tokens` tokens passes or another, their experts taken as drawn apart."""
        missed = (1 - self.chosen_experts / self.num_experts) ** tokens
        return self.parameters - missed * self.expert_parameters

    def kv_bytes(self, dtype_bytes: int, gpus: int = 1) -> float:
        """Cached bytes of one token, on each of the `gpus` of an engine."""
        of_token = self.layers * (self.latent_width or 2 * self.kv_width) * dtype_bytes
        return of_token / min(gpus, self.kv_heads or gpus)


@dataclass(frozen=True)
class Workload:
    """One iteration."""

    rollouts: int
    group_size: int
    turns: float
    turn_tokens: float
    observation_tokens: float
    prompt_tokens: float
    scoring_tokens: float
    """Tokens computed to score one turn: the suffixes of all aliases, and the end of the context that the
    prefix cache cannot hold."""
    max_context: int
    dtype_bytes: int
    updates: int
    """Optimizer steps per batch."""
    epochs: int
    has_reference: bool
    gradient_checkpointing: bool
    micro_batch_tokens: int
    num_runners: int
    max_num_seqs: int
    tensor_parallel: int
    engine_memory_share: float | None
    """Share of a GPU's memory that the engine takes; None where the size of its cache is given."""
    kv_cache: int
    """Bytes of KV cache of one engine, where they are given."""
    shares_device: bool
    """All learners and engines use the same memory at the same time."""
    takes_turns: bool = False
    """Engines and learners use the same GPUs by turns, one of each on a GPU (`colocated`)."""
    num_learners: int = 1
    sharded: bool = False
    """The learners share one model, instead of a copy each."""
    pushes_by_nccl: bool = False
    """Weights go from GPU to GPU (`engine.weight_transfer`)."""
    num_policies: int = 1
    """Policies that each env runner and each learner holds: a model each, but for adapters."""
    adapter_policies: int = 0
    """Those of them that are adapters of the one base."""
    served_policies: int = 0
    """Those of them that share an engine."""
    served_parameters: float = 0.0
    """Parameters of the adapters that this engine serves, each at the rank that vLLM reserves for it."""
    trained_policies: int = 1
    """The trained ones among them."""
    reference_models: int = 0
    """References that are models of their own: that of an adapter is its base."""
    offloads_optimizer: bool = False
    """AdamW's moments are in host memory, and on the device only during a step."""
    engines_per_device: int = 1
    """Engines that Ray puts on one GPU, where each takes a part of one."""
    learners_per_device: int = 1
    meets_on_device: bool = False
    """An engine and a learner may get the same GPU, both in parts, at the same time."""

    @property
    def written_tokens(self) -> float:
        """Decision tokens of one rollout."""
        return min(self.turns * self.turn_tokens, self.max_context)

    @property
    def sequence_tokens(self) -> float:
        """Tokens of one rollout that the learner sees."""
        both = self.turns * (self.turn_tokens + self.observation_tokens)
        return min(self.prompt_tokens + both, self.max_context)


@dataclass(frozen=True)
class Expected:
    """An average rollout as the caller expects it; None: as long as the configuration allows."""

    turns: float | None = None
    turn_tokens: float | None = None
    observation_tokens: float | None = None
    prompt_tokens: float = 200
    answer_tokens: float = 24
    """Tokens of the answer template around one gold answer, times the number of scored aliases."""


def model_of(config: IGPOConfig) -> Model:
    """Sizes of the experiment's model.

    Raises:
        InputError: its configuration cannot be read, or is of a model that the learner cannot train.
    """
    model_config = _model_config(config)
    if why := refusal(config.model_path, model_config):
        raise InputError(why)
    return model_sizes(model_config, config)


def model_sizes(model_config: Any, config: IGPOConfig | None = None) -> Model:
    """Sizes of the model that a Hugging Face configuration describes, counted on a model without weights.

    Args:
        model_config: what `AutoConfig.from_pretrained` returns.
        config: the experiment, which says what policies are adapters, and whether the model's own code may
            run; None: one policy, all of it trained.

    Raises:
        InputError: it is no decoder of text, or has its sizes under names of its own.
    """
    try:
        return _sizes(model_config, config)
    except Exception as error:  # a configuration of any of transformers' kinds
        first = str(error).partition("\n")[0]
        raise InputError(
            f"model_path: the sizes of a {type(model_config).__name__} can't be told "
            f"({type(error).__name__}: {first:.80}); take a decoder of text alone"
        ) from error


def _sizes(model_config: Any, config: IGPOConfig | None) -> Model:
    empty = _without_weights(model_config, config is not None and config.trust_remote_code)
    parameters = trained = sum(parameter.numel() for parameter in empty.parameters())
    frozen = 0.0
    if config is not None:
        own = dict.fromkeys(config.policy_ids, parameters)
        own |= {policy: adapter_parameters(empty, lora) for policy, lora in config.adapters.by_policy.items()}
        learned = sum(own[policy] for policy in config.trained_policies)
        trained, frozen = learned / len(config.trained_policies), float(sum(own.values()) - learned)
    shape = model_config.get_text_config()
    hidden, heads = shape.hidden_size, shape.num_attention_heads
    head_width = getattr(shape, "head_dim", None) or hidden // heads
    latent = getattr(shape, "kv_lora_rank", None)
    tensors = dict(empty.named_parameters())
    experts = sum(tensor.numel() for name, tensor in tensors.items() if ".experts." in name)
    chosen, of_layer = _chosen_experts(shape) if experts else (1, 1)
    intermediate = getattr(shape, "intermediate_size", None) or 4 * hidden
    if experts:  # three matrices each, as wide as what a token passes
        shared = sum(tensor.numel() for name, tensor in tensors.items() if "shared_expert" in name)
        passed = experts * chosen / of_layer + shared
        intermediate = round(passed / (3 * hidden * shape.num_hidden_layers))
    kv_heads = 1 if latent else _key_heads(shape)
    return Model(
        parameters,
        trained,
        layers=shape.num_hidden_layers,
        hidden=hidden,
        intermediate=intermediate,
        kv_width=_key_heads(shape) * head_width,
        vocabulary=shape.vocab_size,
        heads=heads,
        kv_heads=kv_heads,
        latent_width=latent + shape.qk_rope_head_dim if latent else 0,
        attention_width=heads * head_width,
        norms_heads=any("q_norm" in name for name in tensors),
        expert_parameters=experts,
        num_experts=of_layer,
        chosen_experts=chosen,
        frozen=frozen,
    )


def _key_heads(shape: Any) -> int:
    """Key heads of a configuration. Falcon's have names of their own."""
    if getattr(shape, "multi_query", False) and not getattr(shape, "new_decoder_architecture", False):
        return 1
    known = getattr(shape, "num_key_value_heads", None) or getattr(shape, "num_kv_heads", None)
    return known or shape.num_attention_heads


def _chosen_experts(shape: Any) -> tuple[int, int]:
    """Experts of a layer that a token passes, and all of them, under the names that mixtures have for both; 1
    and 1 where the configuration does not say.
    """
    of_token = "num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk"
    of_layer = "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"
    chosen, experts = (
        next((number for name in names if (number := getattr(shape, name, None))), None)
        for names in (of_token, of_layer)
    )
    return (chosen, experts) if chosen and experts else (1, 1)


def _without_weights(model_config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust_remote_code)


def adapter_parameters(model: Any, settings: LoraSettings) -> int:
    """Parameters of the adapters that `settings` add to the linear layers of `model`."""
    import torch

    head = model.get_output_embeddings()
    return sum(
        settings.rank * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and (
            layer is not head if settings.targets == "all-linear" else name.split(".")[-1] in settings.targets
        )
    )


def _model_config(config: IGPOConfig) -> Any:
    from transformers import AutoConfig

    path = str(config.model_path)
    if (known := known_config(path)) is not None:
        return known
    try:
        with naming_shipped_code(path):
            return AutoConfig.from_pretrained(resolve_model(path), trust_remote_code=config.trust_remote_code)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"model_path {path}: its configuration cannot be read; give a folder or a hub name"
        ) from error


def workload_of(config: IGPOConfig, expected: Expected, *, on_cpu: bool) -> Workload:
    """Describes the work of one iteration of the experiment."""
    engine = config.engine_settings
    cache = engine.cache_bytes(on_cpu=on_cpu)
    settings, served = config.search_settings, config.adapters.served
    runners, learners = max(1, config.num_env_runners or 0), max(1, config.num_learners)
    parts = config.num_gpus_per_env_runner, config.num_gpus_per_learner
    of_runner, of_learner = (0.0 if on_cpu or config.is_colocated else float(part) for part in parts)
    whole = set(config.referenced_policies) - set(config.adapters.by_policy)
    work = Workload(
        rollouts=config.prompts_per_iteration * config.group_size,
        group_size=config.group_size,
        turns=settings.max_turns if expected.turns is None else expected.turns,
        turn_tokens=settings.max_turn_tokens if expected.turn_tokens is None else expected.turn_tokens,
        observation_tokens=settings.max_observation_tokens
        if expected.observation_tokens is None
        else expected.observation_tokens,
        prompt_tokens=expected.prompt_tokens,
        # Belief is scored whatever the estimator. The prefix cache lacks half a block on average.
        scoring_tokens=expected.answer_tokens + engine.block_size / 2,
        max_context=settings.max_context_tokens,
        dtype_bytes=DTYPE_BYTES[config.model_dtype],
        updates=config.num_epochs * config.num_minibatches,
        epochs=config.num_epochs,
        has_reference=bool(config.referenced_policies),
        gradient_checkpointing=config.gradient_checkpointing,
        micro_batch_tokens=config.tokens_per_micro_batch,
        num_runners=runners,
        max_num_seqs=engine.max_num_seqs,
        tensor_parallel=engine.tensor_parallel_size,
        engine_memory_share=engine.gpu_memory_utilization if cache is None else None,
        kv_cache=cache or 0,
        shares_device=on_cpu,
        takes_turns=config.is_colocated and not on_cpu,
        num_learners=learners,
        sharded=config.shard_learner,
        pushes_by_nccl=engine.weight_transfer == "nccl" and not on_cpu,
        num_policies=len(config.policies),
        trained_policies=len(config.trained_policies),
        # One that all share; where they are refreshed, one for each.
        reference_models=len(whole) if config.reference_refresh_interval else min(1, len(whole)),
        adapter_policies=len(config.adapters.by_policy),
        served_policies=len(served),
        served_parameters=_served_parameters(config, served),
        offloads_optimizer=config.offload_optimizer and not on_cpu,
        engines_per_device=on_one_gpu(of_runner, runners),
        learners_per_device=on_one_gpu(of_learner, learners),
        meets_on_device=min(of_runner, of_learner) > 0 and of_runner + of_learner <= 1,
    )
    # A rollout that is longer than a micro-batch is one by itself.
    return replace(work, micro_batch_tokens=max(work.micro_batch_tokens, round(work.sequence_tokens)))


def _served_parameters(config: IGPOConfig, served: dict[str, LoraSettings]) -> float:
    if not served:
        return 0.0
    empty, rank = _without_weights(_model_config(config), config.trust_remote_code), served_rank(served)
    reserved = LoraSettings(rank=rank, targets=served_targets(served))  # the same for each
    return float(len(served) * adapter_parameters(empty, reserved))
