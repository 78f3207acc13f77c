"""A model sharded over all learners (FSDP2): each holds a shard of weights, gradients and optimizer state.

Only full tensors leave the learners: `full_tensor` gathers one (all learners must call it), `shard_like`
takes a learner's shard. So checkpoints, pushes and exports are those of one learner, and a checkpoint fits
any number of learners. What is gathered is on a device one tensor at a time, and the first learner alone
keeps it, in host memory: the whole model, or its optimizer state, may not fit where its shard does.

The way in is the same: in a block of `first_reads` the first learner alone reads a model, in host memory, and
the others make it without weights. `shard` and `shard_layers` then send each learner its shards, one tensor
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

_reads: ContextVar[bool] = ContextVar("this process reads models", default=True)


def reads_weights() -> bool:
    """Whether this process reads the weights of a model that it makes; see `first_reads`."""
    return _reads.get()


@contextmanager
def first_reads(device: torch.device) -> Generator[None]:
    """A block in which the first learner alone reads the weights of models.

    All learners enter it, and leave it together: the others would wait for ever for the weights of one that
    failed.

    Args:
        device: the learner's device.

    Raises:
        RuntimeError: another learner failed.
    """
    token, failed = _reads.set(dist.get_rank() == 0), True
    try:
        yield
        failed = False
    finally:
        _reads.reset(token)
        of_any = torch.tensor([float(failed)], device=device)
        dist.all_reduce(of_any, op=dist.ReduceOp.MAX)
    if of_any.item():
        raise RuntimeError("another learner could not make its model: see its error")


def shard(module, device: torch.device) -> None:
    """Shards `HFCausalLM` in place, layer by layer: a layer's weights are gathered only while it computes.

    The first learner's weights are all learners'; the others' may be on the meta device.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    def whole(mesh) -> None:
        fully_shard(module, mesh=mesh)
        register_fsdp_forward_method(module, "forward_train")

    _shard(module.hf, device, whole)


def shard_layers(model, device: torch.device) -> None:
    """Shards the layers of `load_causal_lm`'s model in place, as `shard`, and moves the model to `device`.

    Every learner has embedding and output head whole.
    """
    _shard(model, device, lambda mesh: None)


def _shard(model, device: torch.device, further: Callable[[Any], None]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from algorithms.igpo.model.token_logp import backbone

    whole = {name: tensor.detach() for name, tensor in _held(model)}
    model.to("meta")
    model.tie_weights()  # `to` and `to_empty` part them
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in backbone(model).layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    further(mesh)
    model.to_empty(device=device)
    model.tie_weights()
    for name, tensor in _held(model):
        _send(whole.pop(name), tensor)


def _held(model) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers, those too that no checkpoint holds; tied ones once."""
    return [*model.named_parameters(), *model.named_buffers()]


@torch.no_grad()
def _send(whole: torch.Tensor, into: torch.Tensor) -> None:
    """Copies the first learner's `whole` tensor into `into` of every learner, or its shard (a collective
    call). Others give a tensor of its shape, which may be on the meta device.
    """
    device = into.device
    whole = whole.to(device) if dist.get_rank() == 0 else torch.empty_like(whole, device=device)
    if isinstance(into, DTensor):
        into.copy_(distribute_tensor(whole, into.device_mesh, into.placements, src_data_rank=0))
    else:
        dist.broadcast(whole, src=0)
        into.copy_(whole)


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Gathers the shards of `tensor`; returns a tensor that is not sharded unchanged.

    Shards in host memory (`offload_optimizer`) go to their devices first: NCCL knows no others.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    on_device: Any = tensor.to(tensor.device_mesh.device_type)
    return on_device.full_tensor()


def only_gathers(model: torch.nn.Module) -> bool:
    """Whether this process takes part in gathering the shards of `model`, and keeps nothing of it."""
    return any(isinstance(param, DTensor) for param in model.parameters()) and dist.get_rank() > 0


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shards `tensor`, a full copy on every learner, as `like` is sharded."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
