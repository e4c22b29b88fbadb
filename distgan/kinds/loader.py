"""Batches of real images for the training loop, chosen by their position in the run's endless sequence of images."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from distgan.kinds.image.image_set import ImageSet
from distgan.randomness import DataOrder, uniform

AHEAD = 4  # hints that are kept at most; older ones are dropped
POSITIONS = 8192  # whose images' numbers go to the device at once


class Feed:
    """Batches from an ImageSet, normalised on the device.

    Which image, and whether it is flipped, depends on the position in `order` alone: workers that slice the same
    positions see what one worker would see. Sets up to `device_mib` MiB live on the device as uint8 (on the CPU: in the
    pages that the workers of a node share), and a batch is one index_select. Larger sets are gathered from the memory
    map; `prefetch` does that in a background thread.
    """

    def __init__(
        self,
        images: ImageSet,
        device: torch.device,
        order: DataOrder,
        *,
        device_mib: int,
        mirror: bool = False,
        seed: int = 0,
    ) -> None:
        if order.images != len(images):
            raise ValueError(f"the order is over {order.images} images, the set has {len(images)}")
        self.device, self.order, self.mirror, self.seed = device, order, mirror, seed
        self._cuda = device.type == "cuda"
        self._images = images.images
        self.labels = torch.from_numpy(images.labels).to(device) if images.labels is not None else None
        """Of all samples, int64 (N,) on the device, or None."""
        self._resident: Tensor | None = None
        if images.images.nbytes <= device_mib * 2**20:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # read-only memory; nothing here writes to it
                self._resident = torch.from_numpy(images.images).to(device)
        self._held = (
            0,
            torch.empty(0, dtype=torch.int64, device=device),
        )  # first position, image numbers from there on
        self._thread: ThreadPoolExecutor | None = None
        self._coming: OrderedDict[tuple[int, int], Future[Tensor]] = OrderedDict()

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Images at positions start..stop-1 of the run: float32 (n, C, H, W) in [-1, 1] and labels int64 (n,), on the
        device.
        """
        index = self._index(start, stop)
        if self._resident is not None:
            pixels = self._resident.index_select(0, index)
        else:
            waiting = self._coming.pop((start, stop), None)
            pixels = self._move(waiting.result() if waiting is not None else self._gather(self.order(start, stop)))
        x = pixels.float().mul_(2 / 255).sub_(1)
        if self.mirror:
            position = torch.arange(start, stop, device=self.device)
            flipped = uniform(self.seed, "mirror", position, 1)[:, 0] < 0.5
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        return x, self.labels.index_select(0, index) if self.labels is not None else None

    def prefetch(self, start: int, stop: int) -> None:
        """A hint that `batch(start, stop)` comes next. Free where the set lives on the device."""
        if self._resident is not None or (start, stop) in self._coming:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="distgan-feed")
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
        """Image numbers at positions start..stop-1, on the device: many batches' in one transfer."""
        first, held = self._held
        if not first <= start <= stop <= first + len(held):
            first, held = start, self._move(self.order(start, max(stop, start + POSITIONS)))
            self._held = first, held
        return held[start - first : stop - first]

    def _gather(self, chosen: Tensor) -> Tensor:
        """Images by index from the memory map, uint8 (n, C, H, W), in page-locked memory for CUDA."""
        out = torch.empty((len(chosen), *self._images.shape[1:]), dtype=torch.uint8, pin_memory=self._cuda)
        # mode="clip" lets NumPy write to `out` directly; the indices are in range by construction.
        np.take(self._images, chosen.numpy(), axis=0, out=out.numpy(), mode="clip")
        return out

    def _move(self, values: Tensor) -> Tensor:
        if not self._cuda:
            return values.to(self.device)
        return (values if values.is_pinned() else values.pin_memory()).to(self.device, non_blocking=True)
