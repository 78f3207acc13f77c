"""Low-rank adapters (LoRA, arXiv 2106.09685) by `peft`: the base is frozen; only adapters have gradients and
optimizer state.

Engine and export get a plain model: merged weights by their Hugging Face names. Where several policies are
adapters of one base (`algorithms.igpo.model.adapters`), they get the adapters. The base without its adapters
serves as the KL reference, so no second copy of it is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from envs.engine.lora import ADAPTER, LoraSettings
from envs.errors import InputError

HASHED = 64
"""Numbers of each parameter that tell a base from another one."""


def add_lora(model, settings: LoraSettings) -> None:
    """Adds float32 adapters to `model` in place and freezes its other parameters. New adapters change no
    output.

    `model` may be on the meta device, where it costs little to know what they are, or that they are refused.

    Raises:
        InputError: no layer has one of the `targets` names, one of them is a layer whose weight is another
            layer's too (merged, the two would differ, and whoever loads them ties them again), or the experts
            of a mixture, or a layer that can have no adapters.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha_in_force,  # ty: ignore[invalid-argument-type]
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    if settings.targets != "all-linear":  # which leaves both out
        _refuse_tied(model, settings.targets)
    try:
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    except ValueError as error:  # the sentences of peft
        raise InputError(f"lora.targets are refused by peft: {' '.join(str(error).split()):.200}") from error
    if any(".experts." in name and ".lora_" in name for name, _ in model.named_parameters()):
        raise InputError(
            "lora.targets takes in the experts of a mixture, whose adapters cannot be merged: name other "
            "layers, such as `lora: {targets: [q_proj, k_proj, v_proj, o_proj]}`"
        )
    if settings.targets != "all-linear":
        _refuse_unknown(model, settings.targets)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _refuse_unknown(model, targets: list[str]) -> None:
    adapted = [f".{name}" for name, _ in _adapted_layers(model)]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in adapted):
            raise InputError(f"lora.targets name {target}, which no layer of this model is called: mend it")


def _refuse_tied(model, targets: list[str]) -> None:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embedding.weight:
        return
    names = [name for name, layer in model.named_modules() if layer is head or layer is embedding]
    for target in targets:
        if any(f".{name}".endswith(f".{target}") for name in names):
            raise InputError(
                f"lora.targets name {target}, but this model's embeddings and output head are one weight "
                "(tie_word_embeddings), which cannot have adapters: leave it out"
            )


def base_fingerprint(model) -> np.ndarray:
    """A SHA-256 that tells `model` from others of its form, uint8 [32]; call it before adapters are added.

    It is of the first `HASHED` numbers of each parameter, as bfloat16, so it does not depend on the precision
    in which a model of that precision was loaded.
    """
    told = hashlib.sha256()
    for name, parameter in model.named_parameters():
        head = parameter.detach().flatten()[:HASHED].to("cpu", torch.bfloat16)
        told.update(f"{name} {tuple(parameter.shape)}".encode())
        told.update(head.view(torch.int16).numpy().tobytes())
    return np.frombuffer(told.digest(), np.uint8).copy()


def set_adapters(model, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copies `tensors` into the adapters of `model`.

    Raises:
        ValueError: names or shapes are not those of its adapters.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}
    if {name: one.shape for name, one in own.items()} != {name: one.shape for name, one in tensors.items()}:
        raise ValueError("these adapters are of another model, or have another rank or other targets")
    for name, parameter in own.items():
        parameter.data.copy_(tensors[name])


def merged_weights(
    model, tensors: Mapping[str, torch.Tensor] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the state of `model` with its adapters merged, by the names without adapters, in the base's
    precision. One merged weight exists at a time.

    The merged weight of an adapted layer is weight + alpha / rank * B A.

    Args:
        model: a model with adapters.
        tensors: those of its state that are wanted; None: all.
    """
    layers = dict(_adapted_layers(model))
    for name, tensor in (model.state_dict() if tensors is None else tensors).items():
        if ".lora_" in name:
            continue
        layer_name, separator, rest = name.partition(".base_layer.")
        if separator and rest == "weight":
            delta = layers[layer_name].get_delta_weight(ADAPTER).detach()
            tensor = (tensor.detach().float() + delta.float()).to(tensor.dtype)
        yield (f"{layer_name}.{rest}" if separator else name), tensor


@contextmanager
def without_adapters(model) -> Generator[None]:
    """Switches the adapters off in the context: the model as it was before training. Does nothing to a model
    without adapters.
    """
    layers = [layer for _, layer in _adapted_layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _adapted_layers(model):
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
