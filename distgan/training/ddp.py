"""What workers tell each other while they train: gradients in the backward pass, and running statistics after a
step.
"""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distgan.training.context import Context


def wrap(network: nn.Module, context: Context) -> nn.Module:
    """The network as it is trained by several workers: gradients averaged in the backward pass.

    On CUDA batch norm then takes its statistics over all workers. On the CPU, where torch has no such layer, statistics
    are each worker's own and the running ones are averaged after every step (`average_buffers`).
    """
    if context.world_size == 1:
        return network
    if context.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    # Neither is news to a person: the setting has no other name before torch 2.14, and a gradient of one row has
    # whatever strides
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return DistributedDataParallel(
        network,
        device_ids=[context.device] if context.device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )


def broadcast_weights(network: nn.Module, context: Context) -> None:
    """The first worker's weights and buffers for all, as DistributedDataParallel does when it is made."""
    if context.world_size == 1:
        return
    tensors = [t.detach() for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]
    flat = torch.cat([t.flatten() for t in tensors])
    dist.broadcast(flat, src=0)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


def average_buffers(network: nn.Module, context: Context) -> None:
    """Make running statistics equal on all workers: their mean. No communication if there are none."""
    buffers = [b for b in network.buffers() if b.is_floating_point()] if context.world_size > 1 else []
    if not buffers:
        return
    flat = context.all_reduce_sum(torch.cat([b.detach().flatten() for b in buffers])) / context.world_size
    for buffer, mean in zip(buffers, torch.split(flat, [b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
