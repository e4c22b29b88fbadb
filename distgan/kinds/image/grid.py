"""Grids of images as one picture."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from distgan.kinds.image.opacity import over

Array = npt.NDArray[np.uint8]


def make_grid(images: Array, columns: int | None = None, pad: int = 2) -> Array:
    """One picture, uint8 (H, W, 3), (H, W) or (H, W, 4), of images uint8 (N, C, H, W) in rows, near-square
    unless `columns` is given. Between them it is grey, or transparent.
    """
    n, channels, height, width = images.shape
    columns = columns_of(n, columns)
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), 127, np.uint8)
    if channels == 4:
        canvas[:] = 0
    for i, image in enumerate(images):
        top, left = i // columns * (height + pad) + pad, i % columns * (width + pad) + pad
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas[:, :, 0] if channels == 1 else canvas


def columns_of(n: int, columns: int | None = None) -> int:
    """Images of n that lie side by side."""
    return min(n, columns or math.ceil(math.sqrt(n)))


def over_two(images: Array, columns: int) -> Array:
    """Premultiplied RGBA images uint8 (N, 4, H, W) as RGB: in a grid of so many columns they lie over white and black
    as the squares of a chessboard.
    """
    i = np.arange(len(images))
    dark = ((i // columns + i % columns) % 2 == 1)[:, None, None, None]
    return np.where(dark, over(images, 0), over(images, 255))


def enlarged(picture: Array, resolution: int) -> Array:
    """A picture (H, W) or (H, W, C) with pixels repeated so that a person can see images whose longer side is
    `resolution`: to about 64 pixels.
    """
    times = max(1, 64 // resolution)
    return picture.repeat(times, 0).repeat(times, 1) if times > 1 else picture
