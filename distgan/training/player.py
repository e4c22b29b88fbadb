"""One of the two players: a network, its optimiser, and how its gradients are computed.

    D = Player("d", network, optimizer, loss, ...)      loss(batch) -> (scalar, statistics)
    stats = D.update(batch)                             one Adam step on it

Gradients are averaged over workers (DistributedDataParallel), added up over microbatches (training.accumulate), and
computed either operation by operation or, on a GPU, by a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from distgan.training.context import Context, share
from distgan.training.cuda_graphs import GraphedBackward
from distgan.training.ddp import broadcast_weights, wrap
from distgan.training.inputs import Batch

Stats = dict[str, Tensor]
Loss = Callable[..., tuple[Tensor, Stats]]
"""loss(part: Batch, **static) -> (scalar, statistics). `static` are plain values: a CUDA graph is made for each
combination.
"""


class Player:
    """A network that learns."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        context: Context,
        *,
        batch_size: int,
        accumulate: int,
        autocast: AbstractContextManager[Any],
        graph_pool: Any = None,
    ) -> None:
        """name: "d" or "g", in front of its statistics. batch_size: of all workers together. accumulate: microbatches
        of this worker's share. graph_pool: memory of CUDA graphs, None = no graphs.
        """
        self.name, self.optimizer, self.loss, self.context, self.autocast = name, optimizer, loss, context, autocast
        self.module = wrap(network, context) if graph_pool is None else network
        """The network as it is called while it learns."""
        self.network: nn.Module = getattr(self.module, "module", self.module)  # SyncBatchNorm replaces modules
        start, stop = share(batch_size, context.rank, context.world_size)
        microbatches = min(accumulate, stop - start)
        self.parts = [slice(*share(stop - start, i, microbatches)) for i in range(microbatches)]
        self._own, self._batch_size = stop - start, batch_size
        self._graphed: GraphedBackward | None = None
        if graph_pool is not None:
            broadcast_weights(network, context)
            self._graphed = GraphedBackward(self._backward, list(network.parameters()), graph_pool)

    def update(self, batch: Batch, *, with_norm: bool = False, **static: Hashable) -> Stats:
        """One step of the optimiser; returns the loss's statistics, means over this worker's share, as tensors on the
        device.

        with_norm: also NAME_grad_norm, the length of the whole gradient.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self._graphed is not None:
            stats = self._graphed(*batch, **static)
            if self.context.world_size > 1:
                self.context.all_reduce_sum(self._graphed.gradients).div_(self.context.world_size)
        else:
            stats = self._backward(*batch, **static)
        if with_norm:
            stats[f"{self.name}_grad_norm"] = gradient_norm(self.network)
        self.optimizer.step()
        return stats

    def _backward(self, *inputs: Any, **static: Hashable) -> Stats:
        """Gradients of the loss in the network's parameters. Of tensors, so that a CUDA graph can be made of it."""
        batch = Batch(*inputs)
        found: list[Stats] = []
        for rows in self.parts:
            with self._exchange_after_last(rows), self.autocast:
                value, stats = self.loss(batch.part(rows), **static)
                # DDP averages over workers, losses are means over a part: this makes it the mean over the global batch
                weight = (rows.stop - rows.start) * self.context.world_size / self._batch_size
                torch.autograd.backward(value * weight)
            found.append(stats)
        return self._mean(found)

    def _exchange_after_last(self, rows: slice) -> AbstractContextManager[Any]:
        """Only the last part's backward pass exchanges gradients, of all parts."""
        ddp = isinstance(self.module, DistributedDataParallel)
        return self.module.no_sync() if ddp and rows is not self.parts[-1] else nullcontext()  # type: ignore[operator]

    def _mean(self, found: list[Stats]) -> Stats:
        if len(found) == 1:
            return found[0]
        shares = [(rows.stop - rows.start) / self._own for rows in self.parts]
        pairs = list(zip(found, shares, strict=True))
        return {name: torch.stack([stats[name] * share for stats, share in pairs]).sum(0) for name in found[0]}


def gradient_norm(network: nn.Module) -> Tensor:
    """The length of the network's whole gradient, a scalar tensor."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm
