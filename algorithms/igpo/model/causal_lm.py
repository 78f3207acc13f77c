"""A Hugging Face causal language model as an RLlib module: token ids in, log-probs of the row's own decision
tokens out.

Weights that are trained are always float32 on the learner; `dtype: bfloat16` is the precision of the forward
pass (autocast), of the weights that are handed to the rollout engine, and of those that LoRA freezes. Steps
as small as 1e-6 would vanish in bfloat16 weights.

The vocabulary is the widest thing in the model: a [tokens, vocabulary] float32 array is made only for the
positions that are asked for, a chunk at a time, and recomputed in the backward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from algorithms.igpo.model.fsdp import slice_of, whole
from algorithms.igpo.model.lora import LoraSettings, add_lora, merged_weights
from algorithms.igpo.model.packing import PACKED, PackedRows
from algorithms.igpo.model.token_logp import Entropy, backbone, token_logp
from envs.engine.weights import state_to_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_causal_lm(path: str, weights_dtype: torch.dtype, trust_remote_code: bool = False):
    """The model in `path` with every dropout set to 0: sampler and learner must compute the same
    probabilities.

    Raises ValueError if the model's logits are not its output head applied to its backbone's last hidden
    state.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    for name, value in config.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=weights_dtype, trust_remote_code=trust_remote_code
    )
    token_ids = torch.zeros((1, 2), dtype=torch.long)
    with torch.no_grad():
        expected = model(input_ids=token_ids, use_cache=False).logits
        got = model.get_output_embeddings()(
            backbone(model)(input_ids=token_ids, use_cache=False).last_hidden_state
        )
    if not torch.equal(expected, got):
        raise ValueError(
            f"{type(model).__name__} in {path} changes its logits after the output head (soft-capping or "
            "scaling), which "
            "this learner does not reproduce; use one without it (Llama, Qwen2, Qwen3, Mistral, SmolLM2, ...)"
        )
    model.set_attn_implementation(PACKED)
    _refuse_leaks_between_rows(model, path)
    return model


def _refuse_leaks_between_rows(model, path: str) -> None:
    """A layer that mixes tokens by other means than attention (a state space, a convolution) would see the
    row before.
    """

    @torch.no_grad()
    def last_row(rows: list[list[int]]) -> torch.Tensor:
        inputs = PackedRows(torch.tensor(rows), [len(row) for row in rows]).inputs()
        return backbone(model)(**inputs).last_hidden_state[0, -2:].float()

    try:
        alone, packed = last_row([[1, 0]]), last_row([[0, 1], [1, 0]])
        # Kernels round differently for other shapes, by a share of the largest values.
        tolerance = 0.05 if model.dtype is torch.bfloat16 else 1e-4
        is_alone = bool((packed - alone).abs().max() <= tolerance * alone.abs().max())
    except (RuntimeError, TypeError):  # it cannot take packed rows at all
        is_alone = False
    if not is_alone:
        raise ValueError(
            f"{type(model).__name__} in {path} does not keep packed rows apart: tokens must meet in "
            "attention only, as in "
            "Llama, Qwen2, Qwen3, Mistral or SmolLM2"
        )


class HFCausalLM(TorchRLModule):
    """A causal language model from a Hugging Face folder.

    `model_config` keys: `path` (folder or hub name), `dtype` ("float32" default, or "bfloat16"),
    `trust_remote_code` (default False), `gradient_checkpointing` (default False), `compile` (default False:
    `torch.compile` of the backbone), `lora` (`algorithms.igpo.model.lora.LoraSettings`; default None: all
    weights are trained), `entropy_grad` (default False: entropies are only measured).
    """

    def setup(self):
        settings = dict(self.model_config or {})
        self.path = settings.pop("path", None)
        dtype = settings.pop("dtype", "float32")
        self.trust_remote_code = bool(settings.pop("trust_remote_code", False))
        gradient_checkpointing = settings.pop("gradient_checkpointing", False)
        compiled = settings.pop("compile", False)
        lora = settings.pop("lora", None)
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
        self.has_lora = lora is not None
        try:
            self.hf = load_causal_lm(
                self.path, self.compute_dtype if self.has_lora else torch.float32, self.trust_remote_code
            )
        except (
            AttributeError
        ) as error:  # RLlib takes an AttributeError here for an outdated signature and hides it
            raise RuntimeError(f"could not load the model in {self.path}: {error}") from error
        if gradient_checkpointing:
            self.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora is not None:
            add_lora(self.hf, LoraSettings(**lora))
        if compiled:
            backbone(self.hf).compile(dynamic=True)

    def _forward_train(self, batch: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`token_ids` [N, L] int64, `decision_mask` [N, L] bool and `lengths` [N] to `token_logp` and
        `entropy`, both [N, L - 1] float32.

        Column j of the output is about token j + 1; it is 0 where that token is not a decision token.
        """
        logp, entropy = token_logp(
            self.hf,
            batch["token_ids"],
            batch["decision_mask"][:, 1:],
            self.compute_dtype,
            self.entropy,
            lengths=batch.get("lengths"),
        )
        return {"token_logp": logp, "entropy": entropy}

    def _tensors(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold, once each, by Hugging Face name: a tied output head is its embedding,
        and left out; with LoRA the adapters alone, as the base is in `path`.
        """
        if self.has_lora:
            return {name: p.detach() for name, p in self.hf.named_parameters() if p.requires_grad}
        return _untied(self.hf.state_dict(keep_vars=True))

    def _whole(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights of the whole model one by one, adapters merged and shards put together."""
        tensors = _untied(merged_weights(self.hf)) if self.has_lora else self._tensors()
        return ((name, whole(tensor)) for name, tensor in tensors.items())

    def get_state(
        self, components=None, *, not_components=None, inference_only: bool = False, **kwargs
    ) -> dict[str, np.ndarray]:
        """Copies of the weights as NumPy arrays by Hugging Face name, tied copies left out.

        With `inference_only`: the whole model for the rollout engine, which loads it through
        `state_to_tensors`; under dtype bfloat16 the arrays are int16 and hold the bits of bfloat16 numbers
        (NumPy has no such type). Otherwise what a checkpoint needs, float32 and exact; with LoRA the adapters
        alone. A sharded module is put together: all learners must call it.
        """
        if not inference_only:
            return {name: whole(t).to("cpu", copy=True).numpy() for name, t in self._tensors().items()}
        tensors = ((name, t.to("cpu", copy=True)) for name, t in self.engine_weights())
        return {
            name: (t.view(torch.int16) if t.dtype is torch.bfloat16 else t).numpy() for name, t in tensors
        }

    def engine_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the rollout engine computes with, one by one by Hugging Face name: `_whole` in the precision
        `dtype`, on this module's device. A sharded module is put together: all learners must iterate.
        """
        return ((name, t.to(self.compute_dtype) if t.is_floating_point() else t) for name, t in self._whole())

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Loads what `get_state` gave (either form; with LoRA the adapters). Raises ValueError if names or
        shapes are not exactly this model's.
        """
        own = self._tensors()
        tensors = state_to_tensors(state)
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        shapes = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
        if missing or unknown or shapes:
            raise ValueError(
                f"weights do not fit the model in {self.path}: missing {missing[:3]} ({len(missing)}), "
                f"unknown {unknown[:3]} ({len(unknown)}), of another shape {shapes[:3]} ({len(shapes)})"
            )
        for name, tensor in own.items():
            tensor.copy_(slice_of(tensors[name], tensor))

    def save_pretrained(self, folder: str | None) -> None:
        """Writes a plain Hugging Face folder (weights in `dtype`, configuration; no tokenizer). With None it
        only takes part in putting shards together.
        """
        state = dict(self.engine_weights())
        if folder is None:
            return
        self.hf.save_pretrained(
            folder, state_dict=state
        )  # states the precision of the parameters, not of `state`
        config = copy.deepcopy(self.hf.config)
        config.dtype = self.compute_dtype
        config.save_pretrained(folder)


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor once, by its first name."""
    names = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tensor.detach() for name, tensor in state.items() if names[id(tensor)] == name}
