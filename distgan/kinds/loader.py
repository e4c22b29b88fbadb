"""Batches of real samples for the training loop, chosen by their position in the run's endless sequence of samples."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from distgan.config import DataConfig
from distgan.kinds.base import Kind, SampleSet
from distgan.randomness import DataOrder

AHEAD = 4  # hints that are kept at most; older ones are dropped
POSITIONS = 8192  # whose samples' numbers go to the device at once


class Loader:
    """Batches from a SampleSet, encoded on the device.

    Which sample, and how it is varied, depends on the position in `order` alone: workers that slice the same positions
    see what one worker would see. Sets up to `device_mib` MiB live on the device as they are stored (on the CPU: in the
    pages that the workers of a node share), and a batch is one index_select. Larger sets are gathered from the memory
    map; `prefetch` does that in a background thread.
    """

    def __init__(
        self,
        samples: SampleSet,
        kind: Kind,
        device: torch.device,
        order: DataOrder,
        *,
        device_mib: int,
        config: DataConfig,
        seed: int = 0,
    ) -> None:
        if order.images != len(samples):
            raise ValueError(f"the order is over {order.images} samples, the set has {len(samples)}")
        self.kind, self.device, self.order, self.config, self.seed = kind, device, order, config, seed
        self._cuda = device.type == "cuda"
        self._stored = samples.samples
        self.labels = torch.from_numpy(samples.labels).to(device) if samples.labels is not None else None
        """Of all samples, int64 (N,) on the device, or None."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only memory; nothing here writes to it
            whole = torch.from_numpy(self._stored)
        self._dtype = whole.dtype
        self._resident = whole.to(device) if self._stored.nbytes <= device_mib * 2**20 else None
        # The first position, and sample numbers from there on
        self._held = (0, torch.empty(0, dtype=torch.int64, device=device))
        self._thread: ThreadPoolExecutor | None = None
        self._coming: OrderedDict[tuple[int, int], Future[Tensor]] = OrderedDict()

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Samples at positions start..stop-1 of the run as networks see them, float32 (n, *spec.shape), and labels
        int64 (n,), on the device.
        """
        index = self._index(start, stop)
        if self._resident is not None:
            stored = self._resident.index_select(0, index)
        else:
            waiting = self._coming.pop((start, stop), None)
            stored = self._move(waiting.result() if waiting is not None else self._gather(self.order(start, stop)))
        position = torch.arange(start, stop, device=self.device)
        x = self.kind.vary(self.kind.encode(stored), position, self.config, self.seed)
        return x, self.labels.index_select(0, index) if self.labels is not None else None

    def prefetch(self, start: int, stop: int) -> None:
        """A hint that `batch(start, stop)` comes next. Free where the set lives on the device."""
        if self._resident is not None or (start, stop) in self._coming:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="distgan-loader")
        while len(self._coming) >= AHEAD:
            self._coming.popitem(last=False)[1].cancel()
        self._coming[start, stop] = self._thread.submit(self._gather, self.order(start, stop))

    def close(self) -> None:
        """Stop the background thread, if there is one."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._thread = None
        self._coming.clear()

    def _index(self, start: int, stop: int) -> Tensor:
        """Sample numbers at positions start..stop-1, on the device: many batches' in one transfer."""
        first, held = self._held
        if not first <= start <= stop <= first + len(held):
            first, held = start, self._move(self.order(start, max(stop, start + POSITIONS)))
            self._held = first, held
        return held[start - first : stop - first]

    def _gather(self, chosen: Tensor) -> Tensor:
        """Samples by index from the memory map, as stored (n, ...), in page-locked memory for CUDA."""
        out = torch.empty((len(chosen), *self._stored.shape[1:]), dtype=self._dtype, pin_memory=self._cuda)
        # mode="clip" lets NumPy write to `out` directly; the indices are in range by construction.
        np.take(self._stored, chosen.numpy(), axis=0, out=out.numpy(), mode="clip")
        return out

    def _move(self, values: Tensor) -> Tensor:
        if not self._cuda:
            return values.to(self.device)
        return (values if values.is_pinned() else values.pin_memory()).to(self.device, non_blocking=True)
