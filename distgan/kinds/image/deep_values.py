"""The numbers of image files of more than 8 bits, which Pillow gives whole for grey ones alone."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

NATIVE = "16L" if sys.byteorder == "little" else "16B"
OTHER_ORDER = {"16L": "16B", "16B": "16L"}
COLOUR = ("RGB", "RGBX", "RGBA")


def deep_values(data: bytes, image: Image.Image) -> NDArray[Any] | None:
    """The numbers of an image of more than 8 bits, (H, W) or (H, W, 2 to 4); a TIFF's are upright, others not yet.

    `image` is opened from `data`, and not loaded. None for other images, and where Pillow gives the upper 8 bits alone
    (TIFF of CMYK, or multiplied by its transparency). Raises what Pillow raises if the file is damaged.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values: NDArray[Any] = np.asarray(image)
        bits, white = getattr(image, "tag_v2", {}).get(258, (0,)), getattr(image, "tag_v2", {}).get(262)
        if white == 0 and values.dtype.kind == "u":  # 0 is white; Pillow turns that round for 8 bits only
            values = 2 ** max(bits) - 1 - values.astype(np.int64)
        return values
    lower = _of_lower_bytes(image)
    if not lower:
        return None
    from PIL import Image

    upper: NDArray[Any] = np.asarray(image)
    with Image.open(io.BytesIO(data), formats=(str(image.format),)) as again:
        again.tile = lower  # type: ignore[attr-defined]
        found = np.asarray(again)
    if found.shape[-1] == 4 and lower[0][3] == "RGBA":  # grey and opacity, two bytes each
        pairs = found.astype(np.uint16)
        whole: NDArray[Any] = pairs[..., 0::2] << 8 | pairs[..., 1::2]
    else:
        whole = upper.astype(np.uint16) << 8 | found
    return whole


def colour_of(deep: NDArray[Any]) -> NDArray[Any]:
    """Deep values without their opacity."""
    return deep[..., : deep.shape[2] - 1 + deep.shape[2] % 2] if deep.ndim == 3 else deep


def _of_lower_bytes(image: Image.Image) -> list[Any]:
    """The parts of a file of 16 bits a channel as Pillow's decoder is to read them to give the lower bytes; [] for
    other files.

    Of such numbers Pillow keeps the upper byte; told that their bytes are the other way round, it keeps the lower one.
    """
    if image.format not in ("PNG", "TIFF"):
        return []
    parts = []
    for part in getattr(image, "tile", ()):
        given = part[3]
        stored = given if isinstance(given, str) else given[0]
        kind, _, order = stored.partition(";")
        order = NATIVE if order == "16N" else order
        if kind == "LA" and order == "16B":
            wanted = "RGBA"  # its four bytes as they are
        elif kind in COLOUR and order in OTHER_ORDER:
            wanted = f"{kind};{OTHER_ORDER[order]}"
        else:
            return []
        read = wanted if isinstance(given, str) else (wanted, *given[1:])
        parts.append(part._replace(args=read) if hasattr(part, "_replace") else (*part[:3], read))
    return parts
