"""100 random folders more, as in test_fuzz.py: files of 16 bits a channel, of several frames, and of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deep_files import png16, tiff16
from image_case import SIDE, Case, check
from PIL import Image

Draw = np.random.Generator
BITS = (8, 10, 12, 14, 16)


def stored_as(seen: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a viewer who obeys the orientation shows as `seen`: the seven turns, one by one."""
    undo = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),  # shown turned right, so stored turned left
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }
    return np.ascontiguousarray(undo[orientation](seen)) if orientation > 1 else seen


def of_deep(draw: Draw, place: Path) -> Case:
    """Deep files in grey and colour, with opacity of 16 bits or one transparent value, beside files of 8 bits, and
    damaged ones.
    """
    case = Case(place, settings={"channels": 3, "max_bad_share": 1})
    bits = int(draw.choice(BITS))
    found: list[tuple[str, np.ndarray, np.ndarray]] = []  # stored form, colours, opacity 0..65535
    place.mkdir()
    for i in range(int(draw.integers(4, 10))):
        form = str(draw.choice(["png L", "png LA", "png RGB", "png RGBA", "tif L", "tif white", "tif RGB", "tif RGBA"]))
        orientation = int(draw.integers(1, 9))
        depth = 3 if "RGB" in form else 1
        top = (2**bits - 1) >> int(draw.integers(0, 4)) if i else 2**bits - 1
        colours = draw.integers(0, top + 1, (SIDE, SIDE, depth))
        colours[0, 0] = top
        opacity = np.full((SIDE, SIDE, 1), 65535)
        transparent: tuple[int, ...] = ()
        if form.endswith("A"):
            opacity = draw.integers(0, 65536, opacity.shape)
            opacity[0, 0] = 65535
        elif form.startswith("png") and draw.random() < 0.4:
            transparent = tuple(int(value) for value in colours[5, 5])
            opacity = np.where((colours == transparent).all(-1, keepdims=True), 0, 65535)
        numbers = np.concatenate([colours, opacity], -1) if form.endswith("A") else colours
        stored = stored_as(numbers, orientation)
        if form.startswith("png"):
            data = png16(stored, transparent, orientation, interlaced=bool(draw.random() < 0.3))
        else:
            white = form.endswith("white")
            order = "<" if white else str(draw.choice(["<", ">"]))
            data = tiff16(65535 - stored if white else stored, order, orientation, bool(draw.random() < 0.5), white)
        (place / f"{i}.{form[:3]}").write_bytes(data)
        found.append((form, colours, opacity))
    if draw.random() < 0.5:
        (place / "x.png").write_bytes(damaged(draw, png16(draw.integers(0, 9000, (SIDE, SIDE, 3)))))
        case.skipped = 1
    for name in ("y.png", "z.png"):
        pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / name)
        case.images.append(pixels.transpose(2, 0, 1))
        case.tolerances.append(0)
    brightest = max(colours.max() for _, colours, _ in found)
    of_set = 2 ** next(b for b in BITS if brightest < 2**b) - 1
    case.said = [f"numbers up to {brightest:,} are read as"]
    for _, colours, opacity in found:
        share = opacity / 65535
        pixels = np.rint(255 * (colours / of_set * share + 1 - share)).repeat(3 // colours.shape[2], -1)
        case.images.append(pixels.transpose(2, 0, 1).astype(np.uint8))
        case.tolerances.append(int(opacity.min() < 65535))
    case.names = [None] * len(case.images)
    return case


def damaged(draw: Draw, data: bytes) -> bytes:
    """A file cut off, or with a flipped byte among its compressed pixels that changes their sum."""
    if draw.random() < 0.5:
        return data[: len(data) * int(draw.integers(3, 9)) // 10]
    start = data.index(b"IDAT") + 4
    place = int(draw.integers(start, start + 2))  # what says that this is compressed, and how
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


def of_frames(draw: Draw, place: Path) -> Case:
    """Animations and files of several pages: the first is taken, and told."""
    case = Case(place, settings={"channels": 3})
    place.mkdir()
    several = 0
    for i in range(8):
        form, n = str(draw.choice(["gif", "tif", "png", "webp"])), int(draw.integers(1, 4))
        # One colour a frame and a mark: GIF has a palette
        frames = [np.empty((SIDE, SIDE, 3), np.uint8) for _ in range(n)]
        for frame in frames:
            frame[:] = draw.integers(0, 256, 3)
            frame[int(draw.integers(SIDE)), int(draw.integers(SIDE))] = draw.integers(0, 256, 3)
        first, *others = [Image.fromarray(frame) for frame in frames]
        options: dict[str, Any] = {"lossless": True} if form == "webp" else {}
        first.save(place / f"{i}.{form}", save_all=n > 1, **({"append_images": others} if n > 1 else {}), **options)
        several += n > 1
        case.images.append(frames[0].transpose(2, 0, 1))
    case.names = [None] * 8
    case.said = [f"{several} file{'s' if several > 1 else ''} of several pages or frames"] if several else []
    return case


def of_shapes(draw: Draw, place: Path) -> Case:
    """Images of any shape as files or as one array, cropped or padded, with and without orientation, and resized."""
    fit, colour = str(draw.choice(["crop", "pad"])), draw.integers(0, 256, 3)
    channels = int(draw.choice([1, 3]))
    background = "#" + "".join(f"{value:02x}" for value in colour)
    case = Case(place, settings={"channels": channels, "fit": fit, "background": background})
    array = draw.random() < 0.3
    n, same = int(draw.integers(4, 8)), draw.integers(6, 34, 2)
    kept = []
    for i in range(n):
        sides = tuple(same) if array else tuple(draw.integers(6, 34, 2))
        # grey where the networks see grey, so that the order of luma and resizing is not asked
        seen = draw.integers(0, 256, (*sides, channels), dtype=np.uint8)
        kept.append(seen)
        if not array:
            place.mkdir(exist_ok=True)
            orientation = int(draw.integers(1, 9))
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = stored_as(seen, orientation)
            form = str(draw.choice(["png", "tif", "webp"])) if channels == 3 else str(draw.choice(["png", "tif"]))
            options: dict[str, Any] = {"tiffinfo": {0x0112: orientation}} if form == "tif" else {"exif": exif}
            options |= {"lossless": True, "exact": True} if form == "webp" else {}
            Image.fromarray(stored if channels == 3 else stored[..., 0]).save(place / f"{i}.{form}", **options)
        case.images.append(fitted(seen, fit, colour))
    if array:
        case.path = place.with_suffix(".npy")
        np.save(case.path, np.stack(kept) if channels == 3 or draw.random() < 0.5 else np.stack(kept)[..., 0])
    case.names = [None] * n
    case.tolerances = [int(channels == 1 and fit == "pad")] * n  # of the border's luma
    return case


def fitted(seen: np.ndarray, fit: str, colour: np.ndarray) -> np.ndarray:
    """(H, W, C) as (C, SIDE, SIDE): the middle, or all of it in the middle of a border."""
    height, width, channels = seen.shape
    side = min(height, width) if fit == "crop" else max(height, width)
    down, right = abs(height - side) // 2, abs(width - side) // 2
    if fit == "crop":
        seen = seen[down : down + side, right : right + side]
    else:
        sheet = np.empty((side, side, channels), np.uint8)
        sheet[:] = colour if channels == 3 else np.rint(colour @ [0.299, 0.587, 0.114])
        sheet[down : down + height, right : right + width] = seen
        seen = sheet
    planes = [Image.fromarray(np.ascontiguousarray(seen[..., c])) for c in range(channels)]
    return np.stack([np.asarray(plane.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for plane in planes])


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("make", [of_deep, of_frames, of_shapes])
def test_100_random_folders(make: Any, part: int, tmp_path: Path) -> None:
    for number in range({of_deep: 5, of_frames: 2, of_shapes: 3}[make]):
        draw = np.random.default_rng([part, number, len(make.__name__)])
        try:
            check(make(draw, tmp_path / f"set{number}"))
        except Exception as error:
            raise AssertionError(f"{make.__name__} part {part} number {number}: {error}") from error
