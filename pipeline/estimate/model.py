"""The sizes of an experiment's model, counted on a model without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from algorithms.igpo.model.supported import refusal
from envs.engine.lora import LoraSettings
from envs.engine.models import naming_shipped_code, resolve_model
from envs.errors import InputError
from envs.loading import without_collecting
from pipeline.estimate.known_models import known_config

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


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


def model_of(config: IGPOConfig) -> Model:
    """Sizes of the experiment's model.

    Raises:
        InputError: its configuration cannot be read, or is of a model that the learner cannot train.
    """
    model_config = config_of(config)
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
        InputError: it is no decoder of text, has its sizes under names of its own, or cannot have the
            experiment's adapters.
    """
    try:
        return _sizes(model_config, config)
    except InputError:
        raise
    except Exception as error:  # a configuration of any of transformers' kinds
        first = str(error).partition("\n")[0]
        raise InputError(
            f"model_path: the sizes of a {type(model_config).__name__} can't be told "
            f"({type(error).__name__}: {first:.80}); take a decoder of text alone"
        ) from error


def _sizes(model_config: Any, config: IGPOConfig | None) -> Model:
    trusts = config is not None and config.trust_remote_code
    empty = without_weights(model_config, trusts)
    parameters = trained = sum(parameter.numel() for parameter in empty.parameters())
    frozen = 0.0
    if config is not None:
        own = dict.fromkeys(config.policy_ids, parameters)
        for policy, lora in config.adapters.by_policy.items():
            own[policy] = adapter_parameters(model_config, trusts, lora)
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


def without_weights(model_config: Any, trust_remote_code: bool) -> Any:
    """The model of this configuration on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust_remote_code)


def adapter_parameters(model_config: Any, trust_remote_code: bool, settings: LoraSettings) -> int:
    """Parameters of the adapters that `settings` add to the model of this configuration.

    Raises:
        InputError: it cannot have them (`add_lora`).
    """
    import torch

    from algorithms.igpo.model.lora import add_lora

    with without_collecting(), torch.device("meta"):
        model = without_weights(model_config, trust_remote_code)
        add_lora(model, settings)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def config_of(config: IGPOConfig) -> Any:
    """What transformers knows of the experiment's model: from this package, its folder, or the hub.

    Raises:
        InputError: it cannot be read.
    """
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
