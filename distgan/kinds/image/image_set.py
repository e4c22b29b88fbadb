"""What every source of images ends in: a description before decoding, and the decoded images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distgan.config import DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec
from distgan.models.sides import Resolution, sides
from distgan.text import printable

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


RGBA = "red, green and blue, multiplied by opacity, and opacity; each 0..1 as -1..1"


def image_spec(
    name: str, channels: int, resolution: Resolution, classes: tuple[str, ...] = (), n: int | None = None
) -> SampleSpec:
    """Images of 1 (grey), 3 (RGB) or 4 (RGB multiplied by opacity, and opacity) channels, as networks see them."""
    height, width = sides(resolution)
    meaning = RGBA if channels == 4 else ""
    return SampleSpec(
        printable(name),
        (int(channels), int(height), int(width)),
        (-1.0, 1.0),
        tuple(map(printable, classes)),
        n,
        meaning=meaning,
    )


class Source(Protocol):
    """One kind of place that images come from."""

    def describe(self) -> SampleSpec:
        """What can be said cheaply; raises ConfigError for every mistake that can be seen early."""

    def open(self, progress: Progress | None) -> SampleSet:
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


def in_memory(
    images: Pixels, labels: Labels | None, classes: tuple[str, ...], name: str, remarks: Iterable[str] = ()
) -> SampleSet:
    """A set of images uint8 (N, C, H, W) that are at hand."""
    mark = Fingerprint()
    mark.add(images)
    known = classes if labels is not None else ()
    spec = image_spec(name, images.shape[1], images.shape[2:], known, len(images))
    return SampleSet(spec, np.ascontiguousarray(images), labels, mark.hex(images.shape, labels), (), tuple(remarks))


def first(config: DataConfig, n: int) -> int:
    """How many of n images are used."""
    return n if config.limit is None else min(n, config.limit)
