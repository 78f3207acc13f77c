"""Weights by the names of a published checkpoint, which vLLM reads.

transformers keeps the experts of a layer in one tensor and calls some layers by names of its own; a published
checkpoint has a tensor for each expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion


def published_names(model, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors of `model` as its published checkpoint has them; one layer's at a time.

    Args:
        model: a model of transformers.
        tensors: (name, tensor) in the order of its state, by its own names. They are not changed; what is
            yielded may share memory with them.
    """
    if not get_model_conversion_mapping(model, add_legacy=False):
        yield from tensors
        return
    for _, of_layer in groupby(tensors, key=lambda named: _layer(named[0])):
        yield from revert_weight_conversion(model, dict(of_layer)).items()


def _layer(name: str) -> tuple[str, ...]:
    """The name up to the number of its layer; empty for a tensor outside of the layers."""
    parts = name.split(".")
    numbers = [k for k, part in enumerate(parts) if part.isdigit()]
    return tuple(parts[: numbers[0] + 1]) if numbers else ()
