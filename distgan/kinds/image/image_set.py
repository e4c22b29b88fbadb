"""The two things that every source ends in: what is known before decoding, and the decoded images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distgan.config import DataConfig

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # (what is being done, images done, images in all)


@dataclass(frozen=True)
class DataSpec:
    """What can be said about a set without decoding it. `n` is None where only decoding tells, and counts unreadable
    files in.
    """

    n: int | None
    channels: int
    resolution: int
    n_classes: int
    classes: tuple[str, ...]
    name: str


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A decoded set. `images` may be a read-only memory map that the workers of a node share."""

    images: Pixels  # (N, C, H, W), C-contiguous
    labels: Labels | None  # (N,)
    classes: tuple[str, ...]  # class names, () without labels
    name: str  # what a person would call it
    fingerprint: str  # hash of images and labels as used, in hexadecimal
    skipped: tuple[str, ...] = ()  # unreadable files, each with the reason

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def note(self) -> str | None:
        """What a person should know of files that were passed over: how many, and the first of them with the
        reasons.
        """
        if not self.skipped:
            return None
        total = len(self.images) + len(self.skipped)
        return (
            f"{self.name}: {len(self.skipped)} of {total:,} files cannot be read and are left out: {some(self.skipped)}"
        )

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return int(self.images.shape[1])

    @property
    def resolution(self) -> int:
        """Side of the square images in pixels."""
        return int(self.images.shape[2])


class Source(Protocol):
    """One kind of place that images come from."""

    def describe(self) -> DataSpec:
        """What can be said cheaply; raises ConfigError for every mistake that can be seen early."""

    def open(self, progress: Progress | None) -> ImageSet:
        """The decoded images."""


class Fingerprint:
    """Content hash of a set, fed in parts; the same pixels and labels give the same hash wherever they came from."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, images: Pixels) -> None:
        """Take in the next images (n, C, H, W)."""
        self._hash.update(np.ascontiguousarray(images).data)

    def hex(self, shape: tuple[int, ...], labels: Labels | None) -> str:
        """The hash of all that was added, for a set of this shape and with these labels."""
        final = self._hash.copy()
        final.update(repr(tuple(int(side) for side in shape)).encode())
        if labels is not None:
            final.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return final.hexdigest()


def in_memory(images: Pixels, labels: Labels | None, classes: tuple[str, ...], name: str) -> ImageSet:
    """An ImageSet of arrays that are at hand."""
    mark = Fingerprint()
    mark.add(images)
    return ImageSet(
        np.ascontiguousarray(images),
        labels,
        classes if labels is not None else (),
        name,
        mark.hex(images.shape, labels),
    )


def some(problems: Sequence[str], count: int = 5) -> str:
    """The first of several problems, and how many more there are."""
    more = f" and {len(problems) - count} more" if len(problems) > count else ""
    return ", ".join(problems[:count]) + more


def first(config: DataConfig, n: int) -> int:
    """How many of n images are used."""
    return n if config.limit is None else min(n, config.limit)
