"""Transparency: which images have it, and colours multiplied by the opacity, as images of 4 channels are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distgan.kinds.image.image_set import Pixels

if TYPE_CHECKING:
    from PIL import Image

HALF = 128
"""Opacity below which a pixel counts as transparent."""
SHARE = 1 / 100
"""Share of such pixels from which on an image counts as one with transparent parts."""


def has_opacity(image: Image.Image) -> bool:
    """Whether an image's mode has opacity, or a colour of it means transparent."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def has_transparency(image: Image.Image) -> bool:
    """Whether at least SHARE of the pixels are rather transparent than not."""
    if not has_opacity(image):
        return False
    counts = image.convert("RGBA").getchannel("A").histogram()
    return sum(counts[:HALF]) >= SHARE * sum(counts)


def transparent_images(images: Pixels) -> int:
    """How many of the RGBA images uint8 (n, 4, H, W) have transparent parts."""
    return int(((images[:, 3] < HALF).mean((1, 2)) >= SHARE).sum())


def premultiplied(images: Pixels) -> Pixels:
    """RGBA images uint8 (n, 4, H, W) with colours multiplied by the opacity, rounded to the nearest."""
    found: Pixels = images.copy()
    found[:, :3] = (images[:, :3] * images[:, 3:].astype(np.uint32) + 127) // 255
    return found


def straight(images: Pixels) -> Pixels:
    """The colours that were multiplied by the opacity: RGBA images uint8 (n, 4, H, W) as files have them. Where nothing
    is to be seen, black. `premultiplied` gives the same images again.
    """
    opacity = np.maximum(images[:, 3:].astype(np.uint32), 1)
    found: Pixels = images.copy()
    found[:, :3] = np.minimum((images[:, :3].astype(np.uint32) * 510 + opacity) // (2 * opacity), 255)
    return found


def over(images: Pixels, level: int) -> Pixels:
    """Premultiplied RGBA images uint8 (n, 4, H, W) over a grey background of 0 to 255, as RGB (n, 3, H, W)."""
    behind = (level * (255 - images[:, 3:].astype(np.uint32)) + 127) // 255
    found: Pixels = np.minimum(images[:, :3] + behind, 255).astype(np.uint8)
    return found


def with_opacity(images: Pixels) -> Pixels:
    """Images (n, C, H, W) of C = 1, 3 or 4 channels as RGBA."""
    if images.shape[1] == 4:
        return images
    colours = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    return np.concatenate([colours, np.full_like(colours[:, :1], 255)], axis=1)


def remark(channels: int, transparent: int, looked_at: int, background: str) -> str:
    """What a person should know where so many of the images have transparent parts, or ""."""
    if channels == 4 and not transparent:
        return "no image has transparent parts: with data.channels=4 the generated ones will be opaque too"
    if channels != 4 and transparent > looked_at / 2:
        return (
            f"{transparent:,} of {looked_at:,} images have transparent parts, which are laid over {background} "
            "(data.background); --data.channels 4 generates transparency"
        )
    return ""
