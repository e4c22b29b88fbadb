"""What workers tell each other while they train: gradients in the backward pass or after it, and running statistics
after a step.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distgan.training.context import Context
from distgan.training.cuda_graphs import Recorded


def replicate(network: nn.Module, context: Context) -> nn.Module:
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


class LateGradients:
    """Lets the backward pass of a replica return while its gradients are still being averaged; `wait` before they are
    used.

    DistributedDataParallel waits at the end of the backward pass for every bucket. Here it is told at once that a
    bucket is done: the bucket is where the gradients live (gradient_as_bucket_view), so they become the averages when
    the exchange ends. A network that is no replica has nothing to wait for.
    """

    def __init__(self, network: nn.Module) -> None:
        self._under_way: list[Any] = []
        if isinstance(network, DistributedDataParallel):
            # a lambda, as torch compares a hook's annotations with classes, and here they are strings
            network.register_comm_hook(None, lambda state, bucket: self._start(bucket))  # type: ignore[no-untyped-call]

    def _start(self, bucket: Any) -> torch.futures.Future[Tensor]:
        gradients = bucket.buffer().div_(dist.get_world_size())
        self._under_way.append(dist.all_reduce(gradients, async_op=True))
        done: torch.futures.Future[Tensor] = torch.futures.Future(
            devices=[gradients.device] if gradients.is_cuda else None
        )
        done.set_result(gradients)
        return done

    def wait(self) -> None:
        """Return when all gradients are averages (on CUDA: hold back what is queued after this until they are)."""
        under_way, self._under_way = self._under_way, []
        for work in under_way:
            work.wait()


def same_start(network: nn.Module, context: Context) -> None:
    """The first worker's weights and buffers for all, as a replica takes them when it is made."""
    if context.world_size == 1:
        return
    tensors = [t.detach() for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]
    flat = torch.cat([t.flatten() for t in tensors])
    dist.broadcast(flat, src=0)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


class RecordedGradients:
    """Gradients of a recorded backward pass, which exchanges nothing: all of them in one message when it is over."""

    def __init__(self, recorded: Recorded, context: Context) -> None:
        self.recorded, self.context = recorded, context

    def wait(self) -> None:
        """Make the gradients averages over the workers."""
        if self.context.world_size > 1:
            self.context.all_reduce_sum(self.recorded.gradients).div_(self.context.world_size)


def average_buffers(network: nn.Module, context: Context) -> None:
    """Make running statistics equal on all workers: their mean. No communication if there are none."""
    buffers = [b for b in network.buffers() if b.is_floating_point()] if context.world_size > 1 else []
    if not buffers:
        return
    flat = context.all_reduce_sum(torch.cat([b.detach().flatten() for b in buffers])) / context.world_size
    for buffer, mean in zip(buffers, torch.split(flat, [b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
