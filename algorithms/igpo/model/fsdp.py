"""A model sharded over all learners (FSDP2): each holds a shard of weights, gradients and optimizer state.

Only full tensors leave the learners: `full_tensor` gathers one (all learners must call it), `shard_like`
takes a learner's shard. So checkpoints, pushes and exports are those of one learner, and a checkpoint fits
any number of learners. What is gathered is on a device one tensor at a time, and the first learner alone
keeps it, in host memory: the whole model, or its optimizer state, may not fit where its shard does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module, device: torch.device) -> None:
    """Shards `HFCausalLM` in place, layer by layer: a layer's weights are gathered only while it computes."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = shard_layers(module.hf, device)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "forward_train")


def shard_layers(model, device: torch.device):
    """Shards the layers of `load_causal_lm`'s model in place; embedding and output head are not sharded.

    Returns the mesh.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from algorithms.igpo.model.token_logp import backbone

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in backbone(model).layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return mesh


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
