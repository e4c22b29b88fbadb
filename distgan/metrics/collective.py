"""The two collective operations that sharded measurement needs, for one process and for torch.distributed."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Collective(Protocol):
    """A group of processes. Every process must make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The elementwise sum over all ranks, in the given dtype; the argument may be overwritten."""
        ...

    def all_gather_rows(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks' tensors (n_rank, ...) in rank order; n_rank may differ between ranks and be 0."""
        ...


class SingleProcess:
    """The group of this process alone."""

    rank, world_size = 0, 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather_rows(self, tensor: Tensor) -> Tensor:
        return tensor


class TorchDistributed:
    """The default process group of torch.distributed (gloo or nccl), which must be initialised."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        here = tensor.to(self.device).contiguous()
        dist.all_reduce(here)
        return here.to(tensor.device)

    def all_gather_rows(self, tensor: Tensor) -> Tensor:
        # Collectives need equal shapes: the counts travel first, then rows padded to the longest, and the padding is
        # cut off here.
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = len(tensor)
        counts = self.all_reduce_sum(counts)
        padded = torch.zeros(int(counts.max()), *tensor.shape[1:], dtype=tensor.dtype, device=self.device)
        padded[: len(tensor)] = tensor.to(self.device)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]).to(tensor.device)
