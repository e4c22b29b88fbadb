"""Grids of images as one picture."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.uint8]


def make_grid(images: Array, columns: int | None = None, pad: int = 2) -> Array:
    """One picture, uint8 (H, W, 3) or (H, W), of images uint8 (N, C, H, W) in rows, near-square unless `columns` is
    given.
    """
    n, channels, height, width = images.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), 127, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + pad) + pad, i % columns * (width + pad) + pad
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas[:, :, 0] if channels == 1 else canvas


def enlarged(picture: Array, resolution: int) -> Array:
    """A picture (H, W) or (H, W, 3) with pixels repeated so that a person can see images of `resolution`: to about 64
    pixels a side.
    """
    times = max(1, 64 // resolution)
    return picture.repeat(times, 0).repeat(times, 1) if times > 1 else picture
