"""Counts the bytes that autograd keeps of a micro-batch, beside what `igpo estimate` expects.

    python -m benchmarks.learning.kept_tensors
    python -m benchmarks.learning.kept_tensors --model smollm2 --dtype bfloat16 --rows 2

Counted are the tensors that the forward pass saves for the backward pass, each storage once: weights in the
precision of autocast, logits, and all else, which are the activations. So no allocator is in the numbers. The
resident set of a process on a CPU grows by more: glibc does not give back what is freed in pieces.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from algorithms.igpo.learner.token_batch import row_lengths, take_rows
from algorithms.igpo.model.causal_lm import DTYPES
from algorithms.igpo.model.token_logp import token_logp
from benchmarks.devices import device_of
from benchmarks.learning.learner_throughput import batch_of, make_learner, options
from pipeline.estimate.capacity import memory_of
from pipeline.estimate.machines import GIB
from pipeline.estimate.model import model_of
from pipeline.estimate.workload import Expected, workload_of

PARTS = ("activations", "autocast")


def main() -> None:
    parser = options(__doc__)
    parser.set_defaults(rows=4, longest=512, model="smollm2")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    kept, expected = count(args)
    for part in PARTS:
        if kept[part]:
            print(
                f"{part}: {kept[part] / GIB:.3f} GiB kept, {expected[part] / GIB:.3f} expected, "
                f"{kept[part] / expected[part]:.3f} of it"
            )


def count(args: argparse.Namespace) -> tuple[Counter[str], dict[str, float]]:
    """Returns bytes by part, as counted and as expected."""
    device = device_of(args.device)
    learner = make_learner(args, device)
    model = learner._hugging_face("default_policy").hf
    model.train()  # as in an update; without it there are no gradient checkpoints
    batch, _ = batch_of(args, model.config.vocab_size)
    micro = take_rows(batch, row_lengths(batch), np.arange(args.rows))
    casts = DTYPES[args.dtype] is not torch.float32
    shapes = {tuple(parameter.shape) for parameter in model.parameters() if casts and parameter.dim() > 1}
    shapes |= {(*shape[:-2], shape[-1], shape[-2]) for shape in shapes}
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: Counter[str] = Counter()
    held = []  # so that no storage is freed, and its address taken by another

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held.append(tensor)
            kept[_part(tensor, shapes, model.config.vocab_size)] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        columns = micro["token_ids"], micro[Columns.LOSS_MASK], micro["row_id"]
        token_logp(model, *columns, DTYPES[args.dtype])
    config = learner.config
    config.training(tokens_per_micro_batch=int(micro["token_ids"].numel()))
    parts = memory_of(model_of(config), workload_of(config, Expected(), on_cpu=True), 0.0).parts
    return kept, {part: parts[f"learner: {part}"] for part in PARTS}


def _part(tensor: torch.Tensor, weights: set[tuple[int, ...]], vocabulary: int) -> str:
    if tuple(tensor.shape) in weights:
        return "autocast"
    return "logits" if tensor.shape[-1] == vocabulary else "activations"


if __name__ == "__main__":
    main()
