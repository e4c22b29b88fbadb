"""Statistics of the steps since the last log line, kept on the device, and the clock that goes with them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distgan.training.context import Context


class Meter:
    """Means of scalar tensors over steps and workers. Adding costs no synchronisation with the device; reading one."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._last: dict[str, Tensor] = {}

    def add(self, stats: dict[str, Tensor]) -> None:
        known = [name for name in stats if name in self._sums]
        if known:  # all at once: on a GPU that is one kernel
            torch._foreach_add_([self._sums[name] for name in known], [stats[name].detach() for name in known])
        for name in stats.keys() - self._sums.keys():
            self._sums[name] = stats[name].detach().float().clone()
        for name in stats:
            self._counts[name] = self._counts.get(name, 0) + 1
        self._last = stats

    @property
    def steps(self) -> int:
        """Steps that were added since the meter was read."""
        return max(self._counts.values(), default=0)

    def read(self, context: Context, weight: float = 1.0) -> tuple[dict[str, float], dict[str, float]]:
        """(means, the last step's values), equal on all workers, which must call this together; the meter is empty
        afterwards.

        weight: this worker's share of the batch times the number of workers, 1 where all have equal shares.
        """
        names, last = sorted(self._sums), sorted(self._last)
        if not names:
            return {}, {}
        numbers = torch.stack(
            [*(self._sums[name] / self._counts[name] for name in names), *(self._last[name].float() for name in last)]
        )
        values = (context.all_reduce_sum(numbers * weight) / context.world_size).tolist()
        self._sums, self._counts, self._last = {}, {}, {}
        return dict(zip(names, values, strict=False)), dict(zip(last, values[len(names) :], strict=True))


class Stopwatch:
    """Time spent on training steps alone."""

    def __init__(self) -> None:
        self._since, self._idle = time.perf_counter(), 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside (measuring, drawing, waiting for storage) is not training."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._idle += time.perf_counter() - start

    @property
    def elapsed(self) -> float:
        """Seconds of training since the last lap; above 0."""
        return max(time.perf_counter() - self._since - self._idle, 1e-9)

    def lap(self) -> float:
        """The same, and the next lap begins."""
        elapsed, self._since, self._idle = self.elapsed, time.perf_counter(), 0.0
        return elapsed
