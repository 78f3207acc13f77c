"""A Hugging Face causal language model as an RLlib module: token ids in, log-probs of the row's own decision tokens
out.

Weights that are trained are always float32 on the learner; `dtype: bfloat16` is the precision of the forward pass
(autocast), of the weights that are handed to the rollout engine, and of those that LoRA freezes. Steps as small as 1e-6
would vanish in bfloat16 weights.

The vocabulary is the widest thing in the model: a [tokens, vocabulary] float32 array is made only for the positions
that are asked for, a chunk at a time, and recomputed in the backward pass.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch.utils.checkpoint import checkpoint

from algorithms.igpo.model.fsdp import slice_of, whole
from algorithms.igpo.model.lora import LoraSettings, add_lora, merged_weights
from algorithms.igpo.model.packing import PACKED, PackedRows, distinct_targets

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Entropy = Literal["off", "measured", "trained"]
LOGITS_PER_CHUNK = 1 << 25
"""Entries of one float32 chunk of logits (128 MiB)."""


def load_causal_lm(path: str, weights_dtype: torch.dtype, trust_remote_code: bool = False):
    """The model in `path` with every dropout set to 0: sampler and learner must compute the same probabilities.

    Raises ValueError if the model's logits are not its output head applied to its backbone's last hidden state.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    for name, value in config.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=weights_dtype, trust_remote_code=trust_remote_code)
    token_ids = torch.zeros((1, 2), dtype=torch.long)
    with torch.no_grad():
        expected = model(input_ids=token_ids, use_cache=False).logits
        got = model.get_output_embeddings()(backbone(model)(input_ids=token_ids, use_cache=False).last_hidden_state)
    if not torch.equal(expected, got):
        raise ValueError(
            f"{type(model).__name__} in {path} changes its logits after the output head (soft-capping or scaling), which "
            "this learner does not reproduce; use one without it (Llama, Qwen2, Qwen3, Mistral, SmolLM2, ...)"
        )
    model.set_attn_implementation(PACKED)
    _refuse_leaks_between_rows(model, path)
    return model


def _refuse_leaks_between_rows(model, path: str) -> None:
    """A layer that mixes tokens by other means than attention (a state space, a convolution) would see the row before."""

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
            f"{type(model).__name__} in {path} does not keep packed rows apart: tokens must meet in attention only, as in "
            "Llama, Qwen2, Qwen3, Mistral or SmolLM2"
        )


def backbone(model):
    """The model without its output head."""
    return getattr(model, model.base_model_prefix)


def head_logp(head, hidden_PH, target_P, entropy: Entropy):
    """Log-prob of each target and the entropy at its position, both float32 [P]."""
    logp_PV = torch.log_softmax(head(hidden_PH).float(), dim=-1)
    logp_P = logp_PV.gather(-1, target_P[:, None]).squeeze(-1)
    if entropy == "off":
        return logp_P, torch.zeros_like(logp_P)
    kept_PV = logp_PV if entropy == "trained" else logp_PV.detach()
    return logp_P, -(kept_PV.exp() * kept_PV).sum(-1)


def token_logp(
    model,
    token_ids: torch.Tensor,
    target_mask: torch.Tensor,
    compute_dtype: torch.dtype = torch.float32,
    entropy: Entropy = "measured",
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the rows' own next tokens, and the entropy of the distribution that each was drawn from.

    What rows have in common at their beginning, as the prompt of a group, is computed once (`algorithms.igpo.model.packing`).

    Args:
        model: what `load_causal_lm` returned.
        token_ids: [N, L] int64, padded on the right with any valid id.
        target_mask: [N, L - 1] bool; entry j is about token j + 1. Only these positions pass the output head.
        compute_dtype: bfloat16 runs the model under autocast; log-softmax is float32 always.
        entropy: `off` (zeros, and cheaper), `measured` (no gradient) or `trained`.
        logits_per_chunk: entries of logits that exist at once.
        lengths: [N] real tokens of each row, at least 2: the padding behind them is not computed. None: all L.

    Returns:
        log-probs [N, L - 1] and entropies [N, L - 1], float32, 0 outside `target_mask`.
    """
    device = token_ids.device
    lengths_N = np.full(len(token_ids), token_ids.shape[1]) if lengths is None else lengths.cpu().numpy()
    rows = PackedRows(token_ids[:, :-1], lengths_N - 1)  # the last token predicts nothing that is asked for
    target_P = token_ids[:, 1:][target_mask]
    token_of_P = rows.token_of_NL[target_mask.cpu().numpy()]
    first_U, copy_of_P = distinct_targets(token_of_P, target_P.cpu().numpy())
    before_U, first_U, copy_of_P = (torch.from_numpy(x).to(device) for x in (token_of_P[first_U], first_U, copy_of_P))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute_dtype is torch.bfloat16):
        hidden_TH = backbone(model)(**rows.inputs()).last_hidden_state[0]
        hidden_UH, target_U = hidden_TH.index_select(0, before_U), target_P[first_U]
        head = model.get_output_embeddings()
        chunk = max(1, logits_per_chunk // model.config.vocab_size)
        if len(target_U) <= chunk:
            logp_U, entropy_U = head_logp(head, hidden_UH, target_U, entropy)
        else:
            parts = [
                checkpoint(head_logp, head, hidden, target, entropy, use_reentrant=False)
                for hidden, target in zip(hidden_UH.split(chunk), target_U.split(chunk), strict=True)
            ]
            logp_U, entropy_U = (torch.cat(column) for column in zip(*parts, strict=True))
    zeros_NL = torch.zeros(target_mask.shape, dtype=torch.float32, device=device)
    logp_NL, entropy_NL = (zeros_NL.masked_scatter(target_mask, x_U.index_select(0, copy_of_P)) for x_U in (logp_U, entropy_U))
    return logp_NL, entropy_NL


class HFCausalLM(TorchRLModule):
    """A causal language model from a Hugging Face folder.

    `model_config` keys: `path` (folder or hub name), `dtype` ("float32" default, or "bfloat16"), `trust_remote_code`
    (default False), `gradient_checkpointing` (default False), `compile` (default False: `torch.compile` of the
    backbone), `lora` (`algorithms.igpo.model.lora.LoraSettings`; default None: all weights are trained), `entropy_grad`
    (default False: entropies are only measured).
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
            raise ValueError("model_config of HFCausalLM needs `path`: the folder of a Hugging Face causal language model")
        if dtype not in DTYPES:
            raise ValueError(f"model_config `dtype` is {dtype!r}; use one of {', '.join(DTYPES)}")
        self.compute_dtype = DTYPES[dtype]
        self.has_lora = lora is not None
        try:
            self.hf = load_causal_lm(self.path, self.compute_dtype if self.has_lora else torch.float32, self.trust_remote_code)
        except AttributeError as error:  # RLlib takes an AttributeError here for an outdated signature and hides it
            raise RuntimeError(f"could not load the model in {self.path}: {error}") from error
        if gradient_checkpointing:
            self.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if lora is not None:
            add_lora(self.hf, LoraSettings(**lora))
        if compiled:
            backbone(self.hf).compile(dynamic=True)

    def _forward_train(self, batch: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`token_ids` [N, L] int64, `decision_mask` [N, L] bool and `lengths` [N] to `token_logp` and `entropy`, both
        [N, L - 1] float32.

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
        """What a checkpoint must hold, once each, by Hugging Face name: a tied output head is its embedding, and left
        out; with LoRA the adapters alone, as the base is in `path`.
        """
        if self.has_lora:
            return {name: p.detach() for name, p in self.hf.named_parameters() if p.requires_grad}
        return _untied(self.hf.state_dict(keep_vars=True))

    def _whole(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights of the whole model one by one, adapters merged and shards put together."""
        tensors = _untied(merged_weights(self.hf)) if self.has_lora else self._tensors()
        return ((name, whole(tensor)) for name, tensor in tensors.items())

    def get_state(self, components=None, *, not_components=None, inference_only: bool = False, **kwargs) -> dict[str, np.ndarray]:
        """Copies of the weights as NumPy arrays by Hugging Face name, tied copies left out.

        With `inference_only`: the whole model for the rollout engine, which loads it through `state_to_tensors`; under
        dtype bfloat16 the arrays are int16 and hold the bits of bfloat16 numbers (NumPy has no such type). Otherwise
        what a checkpoint needs, float32 and exact; with LoRA the adapters alone. A sharded module is put together: all
        learners must call it.
        """
        if not inference_only:
            return {name: whole(t).to("cpu", copy=True).numpy() for name, t in self._tensors().items()}
        tensors = ((name, t.to("cpu", copy=True)) for name, t in self.engine_weights())
        return {name: (t.view(torch.int16) if t.dtype is torch.bfloat16 else t).numpy() for name, t in tensors}

    def engine_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the rollout engine computes with, one by one by Hugging Face name: `_whole` in the precision `dtype`, on this
        module's device. A sharded module is put together: all learners must iterate.
        """
        return ((name, t.to(self.compute_dtype) if t.is_floating_point() else t) for name, t in self._whole())

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Loads what `get_state` gave (either form; with LoRA the adapters). Raises ValueError if names or shapes are
        not exactly this model's.
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
        """Writes a plain Hugging Face folder (weights in `dtype`, configuration; no tokenizer). With None it only takes
        part in putting shards together.
        """
        state = dict(self.engine_weights())
        if folder is None:
            return
        self.hf.save_pretrained(folder, state_dict=state)  # states the precision of the parameters, not of `state`
        config = copy.deepcopy(self.hf.config)
        config.dtype = self.compute_dtype
        config.save_pretrained(folder)


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor once, by its first name."""
    names = {id(tensor): name for name, tensor in reversed(state.items())}
    return {name: tensor.detach() for name, tensor in state.items() if names[id(tensor)] == name}


def state_to_tensors(state: Mapping[str, np.ndarray | torch.Tensor]) -> dict[str, torch.Tensor]:
    """`HFCausalLM.get_state` as torch tensors by Hugging Face name; int16 arrays become bfloat16. Shares memory with
    `state`.
    """
    with warnings.catch_warnings():  # arrays out of Ray's object store are read-only; they are only read here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    return {name: t.view(torch.bfloat16) if t.dtype is torch.int16 else t for name, t in tensors.items()}
