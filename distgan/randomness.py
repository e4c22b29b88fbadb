"""Random draws as pure functions of (seed, stream name, sample index).

No generator state exists, so none has to be saved: sample i of stream "latent" is the same on every worker, with any
number of workers, before and after a restart. The draws come from the SplitMix64 sequence (Steele, Lea, Flood: Fast
splittable pseudorandom number generators, OOPSLA 2014), evaluated at a counter instead of step by step, in int64 tensor
arithmetic that wraps as the algorithm asks, so that a whole batch costs a few tensor operations on whatever device it
is needed.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def stream_key(seed: int, stream: str) -> int:
    """A 64-bit key of a named stream of a seed, as a signed integer."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def bits(seed: int, stream: str, index: Tensor, width: int) -> Tensor:
    """64 random bits for each of `width` numbers of each sample.

    index: int64 (N,), sample indices. Returns int64 (N, width).
    """
    column = torch.arange(1, width + 1, device=index.device)
    counter = index[:, None] * width + column
    x = counter * _signed(_GOLDEN) + stream_key(seed, stream)
    x = (x ^ _shift(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX2)
    return x ^ _shift(x, 31)


def uniform(seed: int, stream: str, index: Tensor, width: int) -> Tensor:
    """Numbers from U[0, 1), float32 (N, width), for sample indices int64 (N,)."""
    return _shift(bits(seed, stream, index, width), 40).float() * 2.0**-24


def normal(seed: int, stream: str, index: Tensor, width: int) -> Tensor:
    """Numbers from N(0, 1), float32 (N, width), for sample indices int64 (N,), by Box and Muller's transform."""
    pair = bits(seed, stream, index, (width + 1) // 2)
    radius = torch.sqrt(-2.0 * torch.log((_shift(pair, 40).float() + 0.5) * 2.0**-24))
    angle = (pair & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :width]


def integers(seed: int, stream: str, index: Tensor, high: int) -> Tensor:
    """Whole numbers from 0 to high - 1, int64 (N,), for sample indices int64 (N,)."""
    return _shift(bits(seed, stream, index, 1)[:, 0], 1) % high


def latents(seed: int, stream: str, index: Tensor, dim: int, kind: str = "normal") -> Tensor:
    """Noise vectors z, float32 (N, dim): N(0, 1) for kind "normal", U(-1, 1) for "uniform"."""
    if kind == "uniform":
        return uniform(seed, stream, index, dim) * 2 - 1
    return normal(seed, stream, index, dim)


class DataOrder:
    """Which image of the data set is the n-th that the run sees: a fresh shuffle of the whole set in every epoch.

    The n-th position depends on (seed, number of images) alone, so a resumed run, or one on more workers, goes on with
    the same images. `pool` int64 (M,) are the images to shuffle where it is not the whole set of `size` images.
    """

    def __init__(self, size: int, seed: int, pool: Tensor | None = None) -> None:
        if size < 1:
            raise ValueError("the data set is empty")
        self.images, self.seed, self.pool = size, seed, pool
        self.size = size if pool is None else len(pool)
        self._epochs: dict[int, Tensor] = {}

    def __call__(self, start: int, stop: int) -> Tensor:
        """Data set indices at positions start..stop-1 of the endless sequence, int64 (stop - start,), on the CPU."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.size)
            count = min(stop - start, self.size - offset)
            parts.append(self._order(epoch)[offset : offset + count])
            start += count
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(stream_key(self.seed, f"order/{epoch}") & (2**63 - 1))
            kept = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            order = torch.randperm(self.size, generator=generator)
            self._epochs = {**kept, epoch: order if self.pool is None else self.pool[order]}
        return self._epochs[epoch]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift(x: Tensor, count: int) -> Tensor:
    """Logical shift to the right (torch's own keeps the sign)."""
    return (x >> count) & ((1 << (64 - count)) - 1)
