"""120 random folders and arrays more, as in test_fuzz.py: images with opacity, and of sides that differ."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deep_files import png16, tiff16
from image_case import SIDE, Case, check
from PIL import Image
from test_fuzz_deep import stored_as

Draw = np.random.Generator


def seen_as(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) of 0..1 as (4, H, W) of 0..255, the colours times the opacity."""
    return np.rint(255 * np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)).transpose(2, 0, 1)


FORMS = ["PNG RGBA", "PNG LA", "PNG P", "PNG RGB", "PNG L", "PNG 1", "WEBP RGBA", "TIFF RGBA", "TIFF RGB", "GIF P"]
DEEP = ["png RGBA", "png LA", "png RGB", "tif RGBA"]


def a_file(draw: Draw, form: str, height: int, width: int) -> tuple[bytes, np.ndarray]:
    """A file's bytes in any orientation, and what it shows, float (H, W, 4) in 0..1."""
    kind, _, mode = form.partition(" ")
    orientation = 1 if kind == "GIF" else int(draw.integers(1, 9))
    options: dict[str, Any] = {}
    if form in DEEP:
        depth = {"LA": 2, "RGB": 3, "RGBA": 4}[mode]
        seen = draw.integers(0, 65536, (height, width, depth))
        seen[0, 0] = 65535
        clear = tuple(int(value) for value in seen[3, 2]) if mode == "RGB" and draw.random() < 0.7 else ()
        stored = stored_as(seen, orientation)
        data = png16(stored, clear, orientation) if kind == "png" else tiff16(stored, "<", orientation)
        colours = seen[..., :1] if depth == 2 else seen[..., :3]
        opacity = seen[..., -1:] if depth != 3 else np.full((height, width, 1), 65535)
        if clear:
            opacity = np.where((seen == clear).all(-1, keepdims=True), 0, 65535)
        return data, np.concatenate([np.repeat(colours, 3 // colours.shape[-1], -1), opacity], -1) / 65535
    if mode == "P":
        table = draw.integers(0, 256, (256, 4), dtype=np.uint8)
        numbers = draw.integers(0, 250, (height, width), dtype=np.uint8)
        picture = Image.fromarray(np.ascontiguousarray(stored_as(numbers, orientation))).convert("P")
        picture.putpalette(table[:, :3].tobytes())
        one = kind == "GIF" or draw.random() < 0.5
        clear_number = int(numbers[2, 1])
        if one:
            table[:, 3] = 255
            table[clear_number, 3] = 0
        options = {"transparency": clear_number if one else table[:, 3].tobytes()}
        shown = table[numbers] / 255
    else:
        depth = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
        seen = draw.integers(0, 256, (height, width, depth), dtype=np.uint8)
        if mode == "1":
            seen = np.where(seen > 127, 255, 0).astype(np.uint8)
        if depth in (2, 4):  # some of it is wholly transparent, of a colour that nobody sees, and some opaque
            seen[..., -1] = np.where(draw.random((height, width)) < 0.3, 0, seen[..., -1])
            seen[..., -1] = np.where(draw.random((height, width)) < 0.3, 255, seen[..., -1])
        stored = np.ascontiguousarray(stored_as(seen, orientation))
        picture = Image.fromarray(stored[..., 0] > 127) if mode == "1" else None
        picture = picture or Image.frombytes(mode, stored.shape[1::-1], stored.tobytes())
        opacity = seen[..., -1:] if depth in (2, 4) else np.full((height, width, 1), 255)
        if kind == "PNG" and mode in ("L", "RGB") and draw.random() < 0.5:
            clear = tuple(int(value) for value in seen[1, 2])
            options = {"transparency": clear if mode == "RGB" else clear[0]}
            opacity = np.where((seen == clear).all(-1, keepdims=True), 0, 255)
        colours = seen[..., :1] if depth < 3 else seen[..., :3]
        shown = np.concatenate([np.repeat(colours, 3 // colours.shape[-1], -1), opacity], -1) / 255
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options |= {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif.tobytes()}
    options |= {"lossless": True, "exact": True} if kind == "WEBP" else {}
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue(), shown


def of_opacity(draw: Draw, place: Path) -> Case:
    """Files of the right size with opacity of every kind, and without, as RGBA."""
    case = Case(place, settings={"channels": 4})
    place.mkdir()
    deep, transparent = bool(draw.random() < 0.5), 0
    for i in range(int(draw.integers(4, 10))):
        form = str(draw.choice([*FORMS, *DEEP] if deep else FORMS))
        data, shown = a_file(draw, form, SIDE, SIDE)
        (place / f"{i}.{form[:3].lower()}").write_bytes(data)
        case.images.append(seen_as(shown))
        case.tolerances.append(1 if form in DEEP else 0)  # two roundings
        transparent += (shown[..., 3] < 0.5).mean() >= 0.01
    case.names = [None] * len(case.images)
    case.said = [] if transparent else ["no image has transparent parts"]
    return case


def of_background(draw: Draw, place: Path) -> Case:
    """The same as RGB over a colour, which is told where it happens to most of them."""
    colour = draw.integers(0, 256, 3)
    background = "#" + "".join(f"{value:02x}" for value in colour)
    case = of_opacity(draw, place)
    case.settings = {"channels": 3, "background": background}
    transparent = sum((image[3] < 127.5).mean() >= 0.01 for image in case.images)
    many = transparent > len(case.images) / 2
    case.said = [f"{transparent} of {len(case.images)} images have transparent parts"] if many else []
    case.images = [image[:3] + colour[:, None, None] * (1 - image[3] / 255) for image in case.images]
    case.tolerances = [2] * len(case.images)  # the reference's own rounding too
    return case


def of_arrays(draw: Draw, place: Path) -> Case:
    """RGBA arrays of any type and layout."""
    n, (height, width) = int(draw.integers(4, 12)), [SIDE * int(f) for f in draw.choice([1, 2], 2)]
    pixels = draw.integers(0, 256, (n, height, width, 4), dtype=np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    form = str(draw.choice(["u1", ">i4", "f4", "signed", "16 bits"]))
    stored: np.ndarray = pixels.astype(form) if form in ("u1", ">i4") else pixels.astype("f4") / 255
    if form == "signed":
        stored[..., :3] = stored[..., :3] * 2 - 1  # colours alone: the scale of the opacity is its own
    elif form == "16 bits":
        stored = pixels.astype("u2") * 257
    stored = stored.transpose(0, 3, 1, 2) if draw.random() < 0.5 else stored
    case = Case(place.with_suffix(".npy"), settings={"channels": 4, "resolution": f"{height}x{width}"})
    np.save(case.path, stored)
    case.images, case.names = [seen_as(image / 255) for image in pixels], [None] * n
    return case


def of_sides(draw: Draw, place: Path) -> Case:
    """Files, or one array, of any shape in another one, cropped or padded, in grey, RGB or RGBA."""
    target = tuple(int(side) for side in draw.integers(6, 20, 2))
    fit, channels = str(draw.choice(["crop", "pad"])), int(draw.choice([1, 3, 4]))
    colour = draw.integers(0, 256, 3)
    settings = {"resolution": f"{target[0]}x{target[1]}", "channels": channels, "fit": fit}
    case = Case(place, settings=settings | {"background": "#" + "".join(f"{value:02x}" for value in colour)})
    array, same = bool(draw.random() < 0.3), draw.integers(5, 36, 2)  # sides below 5 may be channels
    mode, kept = {1: "L", 3: "RGB", 4: "RGBA"}[channels], []
    for i in range(int(draw.integers(3, 6))):
        height, width = (
            same if array else draw.integers(4, 36, 2)
        )  # from 6 times the target on, what is resized is a reduced image
        if array:
            pixels = draw.integers(0, 256, (height, width, channels), dtype=np.uint8)
            kept.append(pixels)
            layers = seen_as(pixels / 255) if channels == 4 else pixels.transpose(2, 0, 1)
        else:
            place.mkdir(exist_ok=True)
            form = f"{draw.choice(['PNG', 'TIFF', *(['WEBP'] if channels == 4 else [])])} {mode}"
            data, shown = a_file(draw, form, int(height), int(width))
            (place / f"{i}.{form[:3].lower()}").write_bytes(data)
            layers = seen_as(shown)
            if channels != 4:
                layers = layers[:3] + colour[:, None, None] * (255 - layers[3:]) / 255
                # luma comes before resizing: grey files are grey, unless a coloured background shows through
                layers = layers if channels == 3 else np.tensordot([[0.299, 0.587, 0.114]], layers, 1)
        behind = np.zeros(4) if channels == 4 else colour if channels == 3 else colour @ [[0.299], [0.587], [0.114]]
        case.images.append(in_shape(np.rint(layers).astype(np.uint8), target, fit, np.rint(behind)))
        case.tolerances.append(2 if channels == 1 else 0)
    if array:
        case.path = place.with_suffix(".npy")
        np.save(case.path, np.stack(kept))
    case.names = [None] * len(case.images)
    return case


def in_shape(layers: np.ndarray, target: tuple[int, int], fit: str, behind: np.ndarray) -> np.ndarray:
    """(C, H, W) as (C, *target): the largest middle part of that shape, or the smallest sheet around all of it."""
    sides = layers.shape[1:]
    shares = [Fraction(side, wanted) for side, wanted in zip(sides, target, strict=True)]
    share = min(shares) if fit == "crop" else max(shares)
    new = [max(1, math.floor(share * wanted + Fraction(1, 2))) for wanted in target]
    if fit == "crop":
        top, left = ((side - part) // 2 for side, part in zip(sides, new, strict=True))
        layers = layers[:, top : top + new[0], left : left + new[1]]
    else:
        sheet = np.empty((len(layers), *new), np.uint8)
        sheet[:] = behind[:, None, None]
        top, left = ((part - side) // 2 for side, part in zip(sides, new, strict=True))
        sheet[:, top : top + sides[0], left : left + sides[1]] = layers
        layers = sheet
    flat = [Image.fromarray(np.ascontiguousarray(layer)) for layer in layers]
    found = np.stack([np.asarray(one.resize(target[::-1], Image.Resampling.LANCZOS)) for one in flat])
    return np.minimum(found, found[3:]) if len(found) == 4 else found


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("make", [of_opacity, of_background, of_arrays, of_sides])
def test_120_random_sets(make: Any, part: int, tmp_path: Path) -> None:
    for number in range({of_opacity: 3, of_background: 2, of_arrays: 2, of_sides: 5}[make]):
        draw = np.random.default_rng([part, number, len(make.__name__)])
        try:
            check(make(draw, tmp_path / f"set{number}"))
        except Exception as error:
            raise AssertionError(f"{make.__name__} part {part} number {number}: {error}") from error
