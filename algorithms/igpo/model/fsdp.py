"""A model spread over all learners (FSDP2): each holds a slice of every weight, gradient and optimizer
moment.

What leaves the learners is whole: `whole` puts a tensor together (all learners must ask for it), `slice_of`
takes a learner's part. So checkpoints, pushes and exports are those of one learner, and a checkpoint fits any
number of learners.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(module, device: torch.device) -> None:
    """Shards `HFCausalLM` in place, layer by layer: a layer's weights are whole only while it computes."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = shard_layers(module.hf, device)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "forward_train")


def shard_layers(model, device: torch.device):
    """Shards the layers of `load_causal_lm`'s model in place; embedding and output head stay whole.

    Returns the mesh.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from algorithms.igpo.model.token_logp import backbone

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in backbone(model).layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return mesh


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All slices together; a tensor that is not sharded as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def slice_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`tensor`, which every learner has whole, sharded as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
