"""CUDA graphs of a backward pass: its kernels are captured once and from then on launched all together.

On a fast GPU the nets of small images compute for less time than Python needs to start their hundreds of kernels one by
one. A graph launches them with one call, and computes what was computed before, with the same kernels on the same
numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distgan.config import RunError

WARM_UP = 3
"""Calls before a capture: libraries choose kernels and make their workspaces in the first ones."""

Inputs = Sequence[Any]
"""Tensors, each of them or None."""


class GraphedBackward:
    """A function of tensors that computes gradients, run as a CUDA graph after its first calls.

    function(*inputs, **static) -> statistics, scalar tensors by name; it leaves gradients in `parameters`, which have
    none when it is called. Inputs keep their shapes, data types and layouts from call to call, None stays None.
    `static` are plain values; each combination has a graph of its own. What the function reads besides must stay where
    it is in memory, as networks' weights do, and Python in it runs at the capture only. Graphs with one `pool` use the
    same memory one after the other: statistics are the caller's, the gradients hold until the next call. The backward
    pass of one may start from what another computed and kept, if each of them is captured, and then replayed, right
    after the other.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]], parameters: Sequence[Tensor], pool: Any) -> None:
        self.function, self.parameters, self.pool = function, list(parameters), pool
        sizes = [p.numel() for p in self.parameters]
        self.gradients = torch.zeros(sum(sizes), device=self.parameters[0].device)
        """All gradients in one piece; those of the parameters are views of it."""
        places = zip(self.parameters, torch.split(self.gradients, sizes), strict=True)
        self._views = [flat.as_strided(p.shape, p.stride(), flat.storage_offset()) for p, flat in places]
        self._calls: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, _Graph] = {}

    def __call__(self, *inputs: Any, **static: Hashable) -> dict[str, Tensor]:
        key = tuple(sorted(static.items()))
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= WARM_UP:
            stats, reached = self._run(inputs, static)
        else:
            graph = self._graphs.get(key)
            if graph is None:
                graph = self._graphs[key] = self._capture(inputs, static)
            else:  # a fresh one has them, and another graph may be about to go on from its results
                _copy(graph.inputs, inputs)
            stats, reached = graph.replay()
        for parameter, view, has_one in zip(self.parameters, self._views, reached, strict=True):
            parameter.grad = view if has_one else None
        return stats

    def _run(self, inputs: Inputs, static: dict[str, Hashable]) -> tuple[dict[str, Tensor], list[bool]]:
        for parameter in self.parameters:
            parameter.grad = None  # so that a recording makes its own
        stats = self.function(*inputs, **static)
        found = [parameter.grad for parameter in self.parameters]
        _copy(self._views, found)
        return stats, [gradient is not None for gradient in found]

    def _capture(self, inputs: Inputs, static: dict[str, Hashable]) -> _Graph:
        held = [None if x is None else x.detach().clone() for x in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on (a checkpoint is being written, say)
            with _nothing_collected(), torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                stats, reached = self._run(held, static)
                values = torch.stack([value.float() for value in stats.values()])
        except RuntimeError as error:
            raise RunError(
                f"training.cuda_graphs: this step cannot be captured ({str(error).splitlines()[0]}). A "
                "network that reads numbers back to the host (.item(), printing, if on a tensor) is one reason; "
                "training.cuda_graphs = off does without"
            ) from error
        return _Graph(graph, held, list(stats), values, reached)


@dataclass
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    names: list[str]
    values: Tensor
    reached: list[bool]
    """Which of the parameters have a gradient."""

    def replay(self) -> tuple[dict[str, Tensor], list[bool]]:
        self.graph.replay()  # type: ignore[no-untyped-call]
        return dict(zip(self.names, self.values.clone().unbind(), strict=True)), self.reached


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Inside, Python destroys no unreachable objects: recordings of an earlier run in this process may be among them,
    and where one is destroyed, the one that is being made fails.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _copy(to: Inputs, given: Inputs) -> None:
    """All tensors in one kernel or few; pairs with a None are left out."""
    pairs = [(a, b) for a, b in zip(to, given, strict=True) if a is not None and b is not None]
    if pairs:
        torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
