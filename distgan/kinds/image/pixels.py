"""From whatever an image file or an array holds to uint8 pixels of the wanted size and channels.

Order: upright (EXIF), 8 bits, opaque, channels, shape, antialiased resize. An image that fits already keeps its pixels.

Of 4 channels, images are not made opaque: their colours are multiplied by the opacity ("premultiplied"), in files and
arrays alike before anything is resized, and stored so. Whatever colour a transparent pixel has in a file, here it is
black: networks learn no colours that nobody sees, and none of them bleeds into its neighbours.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distgan.kinds.image.deep_values import colour_of, deep_values
from distgan.kinds.image.depth import Range, Scale
from distgan.kinds.image.headers import readable_formats
from distgan.kinds.image.image_set import Pixels
from distgan.kinds.image.opacity import has_opacity, has_transparency, premultiplied, with_opacity
from distgan.models.sides import Resolution, sides

if TYPE_CHECKING:
    from PIL import Image


FRAMES, TRANSPARENT = "frames", "transparent"


@dataclass(frozen=True)
class Target:
    """What decoded images look like. `zero_pad`: reach a slightly larger resolution by a black border, not by
    resizing.
    """

    channels: int
    resolution: Resolution
    fit: str = "crop"
    background: str = "#ffffff"
    zero_pad: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return sides(self.resolution)

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background as R, G, B."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


# ---------------------------------------------------------------------------------------------------------------------
# Image files


class DeepPixelsError(ValueError):
    """An image of more than 8 bits: what its numbers mean is known when the whole set has been looked at."""


def decode(
    data: bytes, target: Target, scale: Scale | None = None, notice: Callable[[str], None] | None = None
) -> Pixels:
    """An image file's bytes as uint8 (channels, height, width). Raises whatever Pillow raises if it is
    damaged.

    scale: what the numbers of deep images mean; without one they raise DeepPixelsError. notice: told FRAMES of a file
    of several pages or frames, of which the first is taken, and TRANSPARENT of one that has transparent parts.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        check_size(image)
        if notice is not None and image.format != "MPO" and getattr(image, "is_animated", False):
            notice(FRAMES)  # a phone's MPO holds a preview, or a map of brightness
        deep = deep_values(data, image)
        if deep is not None:
            if scale is None:
                raise DeepPixelsError("more than 8 bits")
            picture = turned(Image.fromarray(_scaled(deep, scale, image)), orientation_of(image))
        else:
            # JPEG can be decoded at a fraction of its size; twice the wanted side leaves the quality to the filter
            # below. It may be turned later.
            image.draft(None, (2 * max(target.size), 2 * max(target.size)))  # type: ignore[arg-type]
            picture = upright(image)
            if is_deep_colour(image) and np.asarray(picture.convert("RGB")).max() < 64:
                raise ValueError(
                    "more than 8 bits a channel, of which Pillow reads the upper 8, and these are almost black; "
                    "convert it to 8 bits, or to PNG"
                )
        if notice is not None and has_transparency(picture):
            notice(TRANSPARENT)
        return planes(fitted(flatten(picture, target), target))


def deep_range(data: bytes) -> Range | None:
    """The range of an image file's numbers where they have more than 8 bits; None for all others."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        check_size(image)
        deep = deep_values(data, image)
    if deep is None:
        return None
    colour = colour_of(deep)
    found = Range.of(colour)
    return found if colour.shape == deep.shape else replace(found, opaque=float(deep[..., -1].max()))


def _scaled(deep: NDArray[Any], scale: Scale, image: Image.Image) -> Pixels:
    """Deep values as uint8 (H, W) or (H, W, 2 to 4)."""
    colour = colour_of(deep)
    opacity = Scale(0, scale.opacity).apply(deep[..., -1:]) if colour.shape != deep.shape else None
    transparent = image.info.get("transparency")  # one grey value, or one colour
    if isinstance(transparent, int | tuple) and opacity is None:
        same = colour.reshape(*colour.shape[:2], -1) == np.array(transparent)
        opacity = np.uint8(255) * ~same.all(axis=2, keepdims=True)
    if opacity is None:
        return scale.apply(colour)
    return np.concatenate([scale.apply(colour).reshape(*colour.shape[:2], -1), opacity], axis=2)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether this is a TIFF of more than 8 bits a channel, of which Pillow reads the upper 8."""
    depths = getattr(image, "tag_v2", {}).get(258, (8,))
    return bool(max(depths if isinstance(depths, tuple) else (depths,)) > 8)


def check_size(image: Image.Image) -> None:
    """Refuse images so large that decoding them is an attack or a mistake (Pillow's own limit, as an error)."""
    from PIL import Image

    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {Image.MAX_IMAGE_PIXELS}")


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    image.load()  # turns a TIFF
    return turned(image, orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 to 8; 1 of a TIFF, which was turned. Damaged EXIF counts as none."""
    if image.format == "TIFF":
        return 1  # older versions of Pillow turn it, and leave the tag
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # the tag is a hint; a file with good pixels is not lost for it
        return 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image upright, from what its orientation says."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def flatten(image: Image.Image, target: Target) -> Image.Image:
    """Mode L (channels 1) or RGB (channels 3) from any mode, transparent parts over the background; RGBa (channels 4),
    which is RGBA with colours multiplied by the opacity.
    """
    from PIL import Image

    if target.channels == 4:
        return (image if has_opacity(image) else image.convert("RGB")).convert("RGBA").convert("RGBa")
    if has_opacity(image):
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, target.colour)
        image.paste(layer, mask=layer.getchannel("A"))
    wanted = "L" if target.channels == 1 else "RGB"
    if image.mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return image if image.mode == wanted else image.convert(wanted)


def fitted(image: Image.Image, target: Target) -> Image.Image:
    """An image of the wanted size from one in mode L, RGB or RGBa: the largest part of that shape in its middle, or all
    of it in the middle of a border.
    """
    from PIL import Image

    width, height = image.size
    if target.fit == "crop":
        tall, wide = shape_within(height, width, target)
        left, top = (width - wide) // 2, (height - tall) // 2
        image = image.crop((left, top, left + wide, top + tall)) if (tall, wide) != (height, width) else image
    else:
        tall, wide = shape_around(height, width, target)
        if (tall, wide) != (height, width):
            border = Image.new("RGB", (wide, tall), target.colour) if image.mode != "RGBa" else None
            sheet = border.convert(image.mode) if border else Image.new("RGBa", (wide, tall), (0, 0, 0, 0))
            sheet.paste(image, ((wide - width) // 2, (tall - height) // 2))
            image = sheet
    size = target.size[::-1]
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def shape_within(height: int, width: int, target: Target) -> tuple[int, int]:
    """(height, width) of the largest part of an image that has the target's shape, to the nearest pixel."""
    tall, wide = target.size
    if width * tall > height * wide:
        return height, _share(height, wide, tall)
    return _share(width, tall, wide), width


def shape_around(height: int, width: int, target: Target) -> tuple[int, int]:
    """(height, width) of the smallest sheet of the target's shape that holds an image, to the nearest pixel."""
    tall, wide = target.size
    if width * tall > height * wide:
        return max(height, _share(width, tall, wide)), width
    return height, max(width, _share(height, wide, tall))


def _share(side: int, part: int, whole: int) -> int:
    """side part / whole, rounded, and not 0."""
    return max(1, (2 * side * part + whole) // (2 * whole))


def planes(image: Image.Image) -> Pixels:
    """Pixels of a mode L, RGB or RGBa image, uint8 (C, H, W)."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[None]
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if len(pixels) == 4:  # the filter overshoots at edges
        np.minimum(pixels[:3], pixels[3:], out=pixels[:3])
    return pixels


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def convert(images: Pixels, target: Target, pool: ThreadPoolExecutor | None = None) -> Pixels:
    """uint8 images (n, C, H, W) with C of 1, 3 or 4 as uint8 (n, channels, height, width). Of 4 channels: opacity is
    the last, colours come as they are and leave multiplied by it.
    """
    height, width = images.shape[2:]
    images = premultiplied(with_opacity(images)) if target.channels == 4 else _opaque(images, target)
    if images.shape[1] == 3 and target.channels == 1:
        # ITU-R 601-2 luma in the fixed point that Pillow uses, so that arrays and files agree.
        red, green, blue = images.astype(np.uint32).transpose(1, 0, 2, 3)
        images = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, None]
    if images.shape[1] == 1 and target.channels == 3 and target.fit == "pad":
        images = np.repeat(images, 3, axis=1)  # the border may be coloured
    if (height, width) != target.size:
        if target.zero_pad and height == width < min(target.size) == max(target.size):
            gap = min(target.size) - height
            images = np.pad(images, ((0, 0), (0, 0), (gap // 2, gap - gap // 2), (gap // 2, gap - gap // 2)))
        else:
            images = np.stack(list((pool.map if pool else map)(lambda image: _refit(image, target), images)))
    if images.shape[1] < target.channels:
        images = np.repeat(images, target.channels, axis=1)
    return np.ascontiguousarray(images)


def in_chunks(
    images: NDArray[Any], target: Target, to_bytes: Callable[[NDArray[Any]], Pixels] | None = None
) -> Iterator[Pixels]:
    """`convert` for many images (N, C, H, W), a part at a time, on all processors. `to_bytes` makes a part uint8
    first.
    """
    with ThreadPoolExecutor(processors()) as pool:
        step = chunk(math.prod(images.shape[1:]) * images.itemsize, target)
        for start in range(0, len(images), step):
            part = images[start : start + step]
            yield convert(np.ascontiguousarray(part if to_bytes is None else to_bytes(part)), target, pool)


def chunk(stored_bytes: int, target: Target) -> int:
    """Images to convert and write at once: many, but not so many that they fill the memory."""
    largest = max(stored_bytes, target.channels * math.prod(target.size))
    return max(16, min(1024, (1 << 27) // largest))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _opaque(images: Pixels, target: Target) -> Pixels:
    if images.shape[1] != 4:
        return images
    alpha = images[:, 3:].astype(np.uint32)
    behind = np.array(target.colour, np.uint32)[:, None, None]
    mixed: Pixels = ((images[:, :3] * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)
    return mixed


def _refit(image: Pixels, target: Target) -> Pixels:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    if len(image) < 4:
        return planes(fitted(Image.fromarray(pixels), target))
    return planes(fitted(Image.frombytes("RGBa", pixels.shape[1::-1], pixels.tobytes()), target))
