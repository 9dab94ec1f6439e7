"""Models of which each worker keeps a share (FSDP2): shared out, gathered, and taken up again by any number of workers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ecgscan_ray.distributed import rank, world_size
from ecgscan_ray.training.towers import repeated_blocks


def shard(model: nn.Module) -> nn.Module:
    """Share out weights, and so gradients and the optimiser's state: block by block of the towers, and all the rest.

    A block's weights are gathered when it computes. Gradients are averaged over the workers, as DDP does.
    """
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    for block in repeated_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def local(tensor: Tensor) -> Tensor:
    """This worker's share of a tensor, or the tensor where it is not shared out."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, gathered to rank 0's main memory where they are shared out; every rank has to call it.

    Returns:
        Those that are shared out on rank 0 alone.
    """
    gathered: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if full is tensor:
            gathered[name] = tensor
        elif rank() == 0:
            gathered[name] = full.cpu()
    return gathered


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, shared out as another one is; nothing is sent."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients down to a norm where theirs is larger; the norm before, of the whole model, the same on every rank."""
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(grads)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm
