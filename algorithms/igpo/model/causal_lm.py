"""A Hugging Face causal language model as an RLlib module: token ids in, log-probs of decision tokens out.

Trained weights are always float32 on the learner, because steps as small as 1e-6 would vanish in bfloat16.
`dtype: bfloat16` sets the precision of the forward pass (autocast), of the weights that the rollout engine
gets, and of the weights that LoRA freezes.

A [tokens, vocabulary] float32 array would be the largest of all. It is computed at decision tokens only, a
chunk at a time, and again in the backward pass.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.annotations import override

from algorithms.igpo.model.experts import cast_experts
from algorithms.igpo.model.fsdp import full_tensor, only_gathers, reads_weights, shard_like
from algorithms.igpo.model.lora import add_lora, base_fingerprint, merged_weights
from algorithms.igpo.model.one_base import shared
from algorithms.igpo.model.packing import PACKED, PackedRows
from algorithms.igpo.model.published_names import published_names
from algorithms.igpo.model.ragged import takes_ragged_rows
from algorithms.igpo.model.token_logp import Entropy, backbone, token_logp
from envs.engine.lora import LoraSettings, write_adapter
from envs.engine.models import naming_shipped_code
from envs.engine.weights import keep_in_float32, kept_in_float32, state_to_tensors
from envs.errors import InputError

logger = logging.getLogger(__name__)

BASE = "base_sha256"
"""In a state with adapters: what tells their base from others (`base_fingerprint`)."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_causal_lm(path: str, weights_dtype: torch.dtype, trust_remote_code: bool = False):
    """Loads the model in `path` and sets every dropout to 0: sampler and learner must compute the same
    probabilities. On the meta device, without weights, where `reads_weights` is False.

    Raises:
        ValueError: the model's logits are not its output head applied to its backbone's last hidden state, or
            its tokens meet elsewhere than in attention, or it needs code that is not trusted.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with naming_shipped_code(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    for name, value in config.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    how: Any = {"dtype": weights_dtype, "trust_remote_code": trust_remote_code}
    if not reads_weights():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **how)
        keep_in_float32(model)
        model.set_attn_implementation(PACKED)
        cast_experts(model)
        return model.eval()  # as `from_pretrained` returns it
    model = AutoModelForCausalLM.from_pretrained(path, config=config, **how)
    token_ids = torch.tensor([[1, 0]])
    with torch.no_grad():
        expected = model(input_ids=token_ids, use_cache=False).logits
        hidden = backbone(model)(input_ids=token_ids, use_cache=False).last_hidden_state
        got = model.get_output_embeddings()(hidden)
    if not torch.equal(expected, got):
        raise ValueError(
            f"{type(model).__name__} in {path} changes its logits after the output head (soft-capping or "
            "scaling), which this learner does not reproduce; use Llama, Qwen2, Qwen3, Mistral, SmolLM2, ..."
        )
    model.set_attn_implementation(PACKED)
    cast_experts(model)
    _refuse_leaks_between_rows(model, path, hidden[0].float())
    return model


@torch.no_grad()
def _refuse_leaks_between_rows(model, path: str, alone: torch.Tensor) -> None:
    """Raises ValueError where the hidden states of the row [1, 0] behind another one are not those of the
    plain model, `alone`.

    A layer that mixes tokens without attention (a state space, a convolution) causes that, and attention of
    another kind than the packed one.
    """
    try:
        inputs = PackedRows(np.array([0, 1, 1, 0]), [2, 2]).inputs()
        packed = backbone(model)(**inputs).last_hidden_state[0, -2:].float()
        # Kernels round differently for other shapes, by a share of the largest values.
        tolerance = 0.05 if model.dtype is torch.bfloat16 else 1e-4
        is_alone = bool((packed - alone).abs().max() <= tolerance * alone.abs().max())
    except (RuntimeError, TypeError):  # it cannot take packed rows at all
        is_alone = False
    if not is_alone:
        raise ValueError(
            f"{type(model).__name__} in {path} does not keep packed rows apart: tokens must meet in plain "
            "causal attention only, as in Llama, Qwen2, Qwen3, Mistral or SmolLM2"
        )


class HFCausalLM(TorchRLModule):
    """A causal language model from a Hugging Face folder.

    `model_config` keys: `path` (folder or hub name), `dtype` ("float32" default, or "bfloat16"),
    `trust_remote_code` (default False), `gradient_checkpointing` (default False), `compile` (default False:
    `torch.compile` of the backbone), `lora` (`envs.engine.lora.LoraSettings`; default None: all weights are
    trained), `shares_base` (default False; True: the base is that of other modules too, and the export holds
    the adapters alone), `serves_adapters` (default False; True: so do the engine's weights),
    `published_names` (default True: the engine's weights have the names of a published checkpoint, as vLLM
    reads them; False: transformers' own), `entropy_grad` (default False: entropies are only measured).
    """

    @override(TorchRLModule)
    def setup(self):
        settings = dict(self.model_config or {})
        self.path = settings.pop("path", None)
        dtype = settings.pop("dtype", "float32")
        self.trust_remote_code = bool(settings.pop("trust_remote_code", False))
        gradient_checkpointing = settings.pop("gradient_checkpointing", False)
        compiled = settings.pop("compile", False)
        lora = settings.pop("lora", None)
        self.lora = None if lora is None else LoraSettings(**lora)
        self.shares_base = bool(settings.pop("shares_base", False))
        self.serves_adapters = bool(settings.pop("serves_adapters", False))
        self.published_names = bool(settings.pop("published_names", True))
        self.entropy: Entropy = "trained" if settings.pop("entropy_grad", False) else "measured"
        if settings:
            raise ValueError(f"unknown keys in model_config of HFCausalLM: {', '.join(sorted(settings))}")
        if not self.path:
            raise ValueError(
                "model_config of HFCausalLM needs `path`: the folder of a Hugging Face causal language model"
            )
        if dtype not in DTYPES:
            raise ValueError(f"model_config `dtype` is {dtype!r}; use one of {', '.join(DTYPES)}")
        self.compute_dtype = DTYPES[dtype]
        weights_dtype = torch.float32 if self.lora is None else self.compute_dtype
        source = self.path, weights_dtype, self.trust_remote_code
        try:
            self.hf = shared(load_causal_lm, *source) if self.shares_base else load_causal_lm(*source)
            if gradient_checkpointing:
                self.hf.gradient_checkpointing_enable({"use_reentrant": False})
            if self.lora is not None:
                self._base = base_fingerprint(self.hf)
                add_lora(self.hf, self.lora)
            if compiled:
                backbone(self.hf).compile(dynamic=True)
        except AttributeError as error:
            # RLlib would take an AttributeError for an outdated signature and hide it.
            raise RuntimeError(f"could not load the model in {self.path}: {error}") from error

    @property
    def has_lora(self) -> bool:
        """Whether adapters are trained, and not all weights."""
        return self.lora is not None

    def takes_ragged_rows(self, device: torch.device) -> bool:
        """Whether attention takes rows of any length on `device`, and pads none."""
        return takes_ragged_rows(device, self.compute_dtype, self.hf.config)

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """Computes the log-probs and entropies of the decision tokens.

        Args:
            batch: reads `token_ids`, `loss_mask` and `row_id` of a token batch
                (`algorithms.igpo.learner.token_batch`).

        Returns:
            `token_logp` and `entropy`, both float32 [D] over the tokens where the loss mask is True, in nats.
        """
        logp_D, entropy_D = token_logp(
            self.hf,
            batch["token_ids"],
            batch[Columns.LOSS_MASK],
            batch["row_id"],
            self.compute_dtype,
            self.entropy,
        )
        return {"token_logp": logp_D, "entropy": entropy_D}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Returns the tensors of a checkpoint by Hugging Face name, each once.

        A tied output head is left out, because it is the embedding. With LoRA: the adapters alone, because
        `path` holds the base.
        """
        if self.has_lora:
            return {name: p.detach() for name, p in self.hf.named_parameters() if p.requires_grad}
        return _untied(self.hf.state_dict(keep_vars=True))

    def _full_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the weights of the model one by one, adapters merged and shards gathered."""
        if self.has_lora:
            return merged_weights(self.hf, _untied(self.hf.state_dict(keep_vars=True)))
        return ((name, full_tensor(tensor)) for name, tensor in self._tensors().items())

    @override(TorchRLModule)
    def get_state(
        self, components=None, *, not_components=None, inference_only: bool = False, **kwargs
    ) -> dict[str, np.ndarray]:
        """Copies the weights into NumPy arrays by Hugging Face name, tied copies left out.

        Gathers a sharded module: all learners must call it, and the others than the first get no weights.

        Args:
            inference_only: True: the weights of the rollout engine (`engine_weights`), which loads them
                through `state_to_tensors`. With dtype bfloat16 the arrays are int16 and hold the bits of
                bfloat16 numbers (NumPy has no such type). False: the tensors of a checkpoint, float32 and
                exact; with LoRA the adapters alone, and `BASE`, which tells their base from others.
        """
        if inference_only:
            held = self._on_host(self.engine_weights())
            return {n: (t.view(torch.int16) if t.dtype is torch.bfloat16 else t).numpy() for n, t in held}
        held = self._on_host((name, full_tensor(tensor)) for name, tensor in self._tensors().items())
        state = {name: tensor.numpy() for name, tensor in held}
        return state if self.lora is None else state | {BASE: self._base}

    def _on_host(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields copies in host memory; nothing in a process that only takes part in gathering."""
        dropped = only_gathers(self.hf)
        for name, tensor in tensors:
            if not dropped:
                yield name, tensor.to("cpu", copy=True)

    def engine_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (name, tensor) of the rollout engine's weights in the precision `dtype` (`kept_in_float32`
        aside), on this module's device: the full model by the names that the engine reads, or the adapters
        alone where it serves them.

        Gathers a sharded module: all learners must iterate.
        """
        if self.serves_adapters:
            return self._in_dtype(self._tensors().items())
        tensors = self._in_dtype(self._full_tensors())
        return published_names(self.hf, tensors) if self.published_names else tensors

    def _in_dtype(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in tensors:
            rounded = tensor.is_floating_point() and not kept_in_float32(self.hf, name)
            yield name, tensor.to(self.compute_dtype) if rounded else tensor

    @override(TorchRLModule)
    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Loads the tensors of a checkpoint, as `get_state` returns them; with LoRA the adapters.

        Raises:
            InputError: adapters were trained on another base.
            ValueError: names or shapes are not exactly this model's.
        """
        own = self._tensors()
        base = state.get(BASE)
        state = {name: array for name, array in state.items() if name != BASE}
        if self.lora is not None and base is None:
            logger.warning("on which base these adapters were trained is not known: taken for %s", self.path)
        elif self.lora is not None and not np.array_equal(np.asarray(base), self._base):
            raise InputError(
                f"these adapters were trained on other weights than those in {self.path}, with which they "
                "make another policy: set model_path to the model that they were trained on"
            )
        tensors = state_to_tensors(state)
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        shapes = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
        if missing or unknown or shapes:
            raise ValueError(
                f"weights do not fit the model in {self.path}: missing {missing[:3]} ({len(missing)}), "
                f"unknown {unknown[:3]} ({len(unknown)}), of another shape {shapes[:3]} ({len(shapes)})"
            )
        for name, tensor in own.items():
            tensor.copy_(shard_like(tensors[name], tensor))

    def save_pretrained(self, folder: str | None) -> None:
        """Writes a plain Hugging Face folder: weights in `dtype` and configuration, no tokenizer.

        A module that shares its base writes its adapters alone, in float32 and the form of `peft`.
        Of a sharded module all learners must call it: the first one writes, and `folder` is None for others.
        """
        if self.lora is not None and self.shares_base:
            if folder is not None:
                write_adapter(folder, self.lora, {n: t.cpu() for n, t in self._tensors().items()}, self.path)
            return
        state = dict(self._on_host(self._in_dtype(self._full_tensors())))
        if folder is None:
            return
        # Hugging Face records the precision of the parameters, not that of `state`: correct it afterwards.
        self.hf.save_pretrained(folder, state_dict=state)
        config = copy.deepcopy(self.hf.config)
        config.dtype = self.compute_dtype
        config.save_pretrained(folder)


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns every tensor once, by its first name."""
    names = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tensor.detach() for name, tensor in state.items() if names[id(tensor)] == name}
