"""Height and width of images, and of the small maps that networks begin with. Needs no torch."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

Resolution = int | tuple[int, int]
"""The side of square images in pixels, or (height, width) of others: what constructors of networks get."""

LEAST, SHORTER, LONGER, DOUBLINGS = 3, 8, 16, 2
"""The smallest maps of images that are not square: shorter side from LEAST to SHORTER, longer one up to LONGER, doubled
at least so often.
"""


class Base(NamedTuple):
    """The smallest maps of a network for images of 2^doublings times their sides."""

    height: int
    width: int
    doublings: int

    @property
    def area(self) -> int:
        return self.height * self.width


def sides(resolution: Resolution) -> tuple[int, int]:
    """(height, width) in pixels."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def base_of(resolution: Resolution) -> Base:
    """Both sides halved together as long as they are even and none gets below 3: 4 x 4 for powers of two, 7 x 7 for 28,
    6 x 4 for 96 x 64.
    """
    height, width = sides(resolution)
    doublings = 0
    while height % 2 == width % 2 == 0 and min(height, width) >= 2 * LEAST:
        height, width, doublings = height // 2, width // 2, doublings + 1
    return Base(height, width, doublings)


def can_be_doubled_to(resolution: Resolution) -> bool:
    """Whether networks that double their maps can make such images, square or not."""
    base = base_of(resolution)
    small = LEAST <= min(base[:2]) <= SHORTER and max(base[:2]) <= LONGER
    return small and base.doublings >= DOUBLINGS


def nearest_to(height: int, width: int, most: int) -> tuple[int, int]:
    """The unequal sides up to `most` pixels nearest to these that such networks can make."""
    pairs = product(range(LEAST, LONGER + 1), repeat=2)
    bases = [(h, w) for h, w in pairs if h != w and min(h, w) <= SHORTER]
    found = [(h << k, w << k) for k in range(DOUBLINGS, most.bit_length()) for h, w in bases if max(h, w) << k <= most]

    def distance(size: tuple[int, int]) -> float:
        taller, wider = math.log(size[0] / height), math.log(size[1] / width)
        return abs(taller - wider) + abs(taller + wider) / 2

    return min(found, key=distance)
