"""300 random folders, archives and arrays against a slow reference of Pillow and NumPy alone: equal pixels, labels and
class names, or a refusal where the reference refuses.

The reference knows what each file was made from, and shares no line with the product.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_case import SIDE, Case, check
from PIL import Image

Draw = np.random.Generator


# ---------------------------------------------------------------------------------------------------------------------
# The reference


def grey_of(rgb: np.ndarray) -> np.ndarray:
    """ITU-R 601-2 luma, as Pillow documents it: 0.299 R + 0.587 G + 0.114 B."""
    return np.floor(rgb.astype(np.float64) @ [0.299, 0.587, 0.114] + 0.5).astype(np.uint8)


def over(rgba: np.ndarray, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return np.rint(rgba[..., :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8)


def stored_as(seen: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a viewer who obeys the orientation shows as `seen` (EXIF 2.32, tag 0x0112: what row 0 and
    column 0 of the stored image are).
    """
    if orientation >= 5:
        seen = seen.swapaxes(0, 1)
    rows, columns = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}.get(orientation, (1, 1))
    # 5: row 0 = left, column 0 = top; 6: right, top; 7: right, bottom; 8: left, bottom
    if orientation >= 5:
        rows, columns = {5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}[orientation]
    return seen[::rows, ::columns]


def shown(pixels: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 3) as (channels, H, W)."""
    if channels == 1:
        return (pixels if pixels.ndim == 2 else grey_of(pixels))[None]
    return np.stack([pixels] * 3) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def by_bits(values: np.ndarray, top: int) -> np.ndarray:
    bits = min(b for b in (8, 10, 12, 14, 16) if top < 2**b)
    return np.rint(values / (2**bits - 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Image files


def encode(draw: Draw, kind: str, deep_top: int) -> tuple[bytes, np.ndarray | tuple[str, np.ndarray]]:
    """A file's bytes, and the pixels that it shows; of deep ones ("deep", stored numbers)."""
    form, _, mode = kind.partition(" ")
    orientation = int(draw.integers(1, 9)) if form in ("PNG", "TIFF", "JPEG", "WEBP") else 1
    seen: Any
    options: dict[str, Any] = {}
    if mode in ("I;16", "F"):
        seen = draw.integers(0, deep_top + 1, (SIDE, SIDE)) if mode == "I;16" else draw.random((SIDE, SIDE))
        numbers = np.ascontiguousarray(stored_as(seen, orientation))
        stored = Image.fromarray(numbers.astype("<u2" if mode == "I;16" else "f4"))
        result: Any = ("deep", seen.astype(np.float64) if mode == "I;16" else seen.astype(np.float32))
    else:
        depth = {"L": 1, "1": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
        seen = draw.integers(0, 256, (SIDE, SIDE, depth), dtype=np.uint8)
        if form in ("JPEG",):  # smooth, so that little is lost
            ramp = np.linspace(0, 1, SIDE)
            corners = draw.integers(0, 256, (4, depth))
            weights = np.stack([np.outer(a, b) for a in (ramp, 1 - ramp) for b in (ramp, 1 - ramp)], -1)
            seen = np.rint(weights @ corners).astype(np.uint8)
        pixels = np.ascontiguousarray(stored_as(seen, orientation))
        if mode == "1":
            stored = Image.fromarray(pixels[..., 0] > 127)
            result = np.where(seen[..., 0] > 127, 255, 0).astype(np.uint8)
        elif mode == "P":
            palette = draw.integers(0, 256, (256, 3), dtype=np.uint8)
            stored = Image.fromarray(pixels[..., 0]).convert("P")
            stored.putpalette(palette.tobytes())
            result = palette[seen[..., 0]]
        elif mode == "CMYK":
            stored = Image.frombytes("CMYK", (SIDE, SIDE), pixels.tobytes())
            cmyk = seen.astype(np.float64) / 255
            ink = np.minimum(1, cmyk[..., :3] * (1 - cmyk[..., 3:]) + cmyk[..., 3:])
            result = np.rint(255 * (1 - ink)).astype(np.uint8)
        else:
            stored = Image.frombytes(mode, (SIDE, SIDE), pixels.tobytes())
            result = {1: seen[..., 0], 3: seen}.get(depth)
            if depth == 2:
                result = over(np.concatenate([np.repeat(seen[..., :1], 3, -1), seen[..., 1:]], -1))[..., 0]
            elif depth == 4:
                result = over(seen)
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"tiffinfo": {0x0112: orientation}} if form == "TIFF" else {"exif": exif.tobytes()}
    if form == "WEBP":
        options |= {"lossless": True, "exact": True}
    if form == "JPEG":
        options |= {"quality": 100, "subsampling": 0} if mode != "L" else {"quality": 100}
    stream = io.BytesIO()
    stored.save(stream, form, **options)
    return stream.getvalue(), result


KINDS = [
    *(f"PNG {mode}" for mode in ("L", "RGB", "P", "LA", "RGBA", "1", "I;16")),
    *(f"TIFF {mode}" for mode in ("L", "RGB", "RGBA", "1", "I;16", "F", "CMYK")),
    *("JPEG L", "JPEG RGB", "WEBP RGB", "BMP L", "BMP RGB", "GIF L", "PPM L", "PPM RGB", "PCX RGB"),
]
NAMES = ["{n}.{s}", "Bild {n}.{S}", "\N{CAT}{n}.{s}", "{n}", "{n}.jpg_large", "a.b.{n}.{s}", "{n}.PNG", "#{n}%20.{s}"]


def of_files(draw: Draw, place: Path, number: int) -> Case:
    """A folder, or a .zip of it, with or without classes, with damaged files and others between."""
    channels = int(draw.choice([1, 3]))
    known = ["cat", "Hund \N{DOG FACE}", "3", "_x"]
    classes = [None] if draw.random() < 0.5 else draw.choice(known, 3, replace=False).tolist()
    floats = draw.random() < 0.2
    kinds = [kind for kind in KINDS if not kind.endswith("I;16" if floats else " F")]
    top = int(draw.choice([200, 1023, 4000, 16383, 65535]))
    made: list[tuple[str, bytes]] = []
    shown_by: list[tuple[Any, str | None, str]] = []
    damaged = 0
    for i in range(int(draw.integers(3, 9)) * len(classes)):
        kind, label = str(draw.choice(kinds)), classes[i % len(classes)]
        # Some images are darker than the brightest: a scale image by image would not be noticed else
        data, pixels = encode(draw, kind, top >> int(draw.integers(0, 4)))
        suffix = kind.split()[0].lower()
        form = "{n}.{s}" if suffix == "pcx" else str(draw.choice(NAMES))  # PCX has no mark to know it by
        name = form.format(n=i, s=suffix, S=suffix.upper())
        if draw.random() < 0.08 and i >= len(classes):
            name, damaged = f"{i}.png", damaged + 1
            data = data[: len(data) // 3] if draw.random() < 0.5 and suffix in ("png", "tiff") else b"no image"
        else:
            shown_by.append((pixels, label, kind))
        made.append((f"{label}/{name}" if label else name, data))
    others = [("notes.txt", b"about"), ("Thumbs.db", b"x"), (".hidden.png", b"x"), ("__MACOSX/._0.png", b"x")]
    made += [others[i] for i in range(len(others)) if draw.random() < 0.3]
    deep = [pixels[1] for pixels, *_ in shown_by if isinstance(pixels, tuple)]
    brightest = int(max((values.max() for values in deep), default=0))
    case = Case(place / f"set{number}", skipped=damaged, settings={"channels": channels, "max_bad_share": 1})
    for pixels, label, kind in shown_by:
        if isinstance(pixels, tuple):
            pixels = np.rint(pixels[1] * 255).astype(np.uint8) if floats else by_bits(pixels[1], brightest)
        case.images.append(shown(pixels, channels))
        case.names.append(label)
        blended = kind.endswith(("A", "CMYK")) or (channels == 1 and pixels.ndim == 3)
        case.tolerances.append(6 if "JPEG" in kind else int(blended))
    packed = draw.random() < 0.4
    if packed:
        case.path = case.path.with_suffix(str(draw.choice([".zip", ".ZIP", ""])))
        backslashes, inside = draw.random() < 0.3, str(draw.choice(["", "top/", "a/b/"]))
        with zipfile.ZipFile(case.path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in made:
                entry = zipfile.ZipInfo("x", (2026, 1, 1, 0, 0, 0))
                entry.filename = (inside + name).replace("/", "\\") if backslashes else inside + name
                archive.writestr(entry, data)
        return case
    for name, data in made:
        (case.path / name).parent.mkdir(parents=True, exist_ok=True)
        (case.path / name).write_bytes(data)
    return case


def of_styles(draw: Draw, place: Path, number: int) -> Case:
    """What StyleGAN's dataset tool writes: shards and dataset.json, with labels or without."""
    case = Case(place / f"style{number}.zip", settings={"channels": 3})
    values = sorted(draw.choice(50, 3, replace=False).tolist())
    labelled = draw.random() < 0.7
    listed = []
    with zipfile.ZipFile(case.path, "w") as archive:
        for i in range(24):
            data, pixels = encode(draw, "PNG RGB", 0)
            name = f"{i // 10:05d}/img{i:08d}.png"
            archive.writestr(name, data)
            label = values[int(draw.integers(3))] if i >= 3 else values[i]
            listed.append([name, label])
            case.images.append(shown(pixels, 3))
            case.names.append(str(label) if labelled else None)
        archive.writestr("dataset.json", json.dumps({"labels": listed if labelled else None}))
    return case


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


def of_arrays(draw: Draw, place: Path, number: int) -> Case:
    """.npy and .npz of any type, range, layout and order, with any labels."""
    n, channels = int(draw.integers(6, 30)), int(draw.choice([1, 3]))
    pixels = draw.integers(0, 256, (n, SIDE, SIDE, channels), dtype=np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    case = Case(place / f"array{number}.npz")
    refused = ""
    form = str(draw.choice(["u1", "i8", ">u2", "12 bits", "16 bits", "unit", "signed", "bytes", "bool", "bad"]))
    stored: np.ndarray
    if form in ("u1", "i8", ">u2"):
        stored = pixels.astype(form)
    elif form in ("12 bits", "16 bits"):
        top = 2 ** int(form[:2]) - 1
        stored = draw.integers(0, top + 1, pixels.shape).astype(str(draw.choice(["<u2", ">u2", "i4", "u8"])))
        stored[0, 0, 0] = top
        pixels = np.rint(stored.astype(np.float64) / top * 255).astype(np.uint8)
    elif form == "bool":
        stored = pixels > 127
        pixels = np.where(stored, 255, 0).astype(np.uint8)
    elif form == "bad":
        what = int(draw.integers(5))
        stored = pixels.astype(np.float64) / 255
        if what == 0:
            stored[-1, 3, 3], refused = np.nan, "NaN"
        elif what == 1:
            stored, refused = (stored - 0.45) / 0.23, "floats from"
        elif what == 2:
            stored, refused = pixels.astype(np.int32) - 5, "whole numbers from -5"
        elif what == 3:
            stored, refused = pixels.astype(np.complex64), "type complex64"
        else:
            stored, refused = pixels.astype(np.int64) * 1000, "whole numbers"
    else:
        low, high = {"unit": (0, 1), "signed": (-1, 1), "bytes": (0, 255)}[form]
        precise = pixels.astype(np.float64) / 255 * (high - low) + low
        if draw.random() < 0.5:  # a little beyond, as after resizing
            precise[1, 2, 2] = low - 0.05 * (high - low)
            precise[2, 2, 2] = high + 0.05 * (high - low)
            pixels[1, 2, 2], pixels[2, 2, 2] = 0, 255
        stored = precise.astype(str(draw.choice(["f4", "f8", ">f4"])))
    stored = stored[..., 0] if channels == 1 and draw.random() < 0.5 else stored
    if stored.ndim == 4 and draw.random() < 0.5:
        stored = stored.transpose(0, 3, 1, 2)
    if draw.random() < 0.3:
        stored = np.asfortranarray(stored)
    wanted = int(draw.choice([channels, channels, 1, 3]))
    case.settings["channels"] = wanted
    case.images = [shown(image[..., 0] if channels == 1 else image, wanted) for image in pixels]
    case.names = [None] * n
    case.tolerances = [int(wanted < channels)] * n
    if draw.random() < 0.3:
        case.path = case.path.with_suffix(".npy")
        np.save(case.path, stored)
    else:
        labels, names, wrong = labels_of(draw, n)
        case.names, refused = names, "|".join(filter(None, (refused, wrong)))
        arrays: dict[str, Any] = {str(draw.choice(["images", "x", "X_train", "Data", "arr_0"])): stored}
        if labels is not None:
            arrays[str(draw.choice(["labels", "label", "y", "Target", "class"]))] = labels
        np.savez(case.path, **arrays)
    case.refused = refused
    return case


def labels_of(draw: Draw, n: int) -> tuple[np.ndarray | None, list[str | None], str]:
    """(labels as stored, the class of each image, a pattern where they must be refused)."""
    values = draw.integers(0, 3, n)
    values[:3] = 0, 1, 2
    ids = np.array([7, 4000, 12])
    words = np.array(["b", "\N{CAT}", "a 1"])
    kind = str(draw.choice(["none", "ids", "column", "floats", "words", "bytes", "one-hot", "bool", "bad"]))
    if kind == "none":
        return None, [None] * n, ""
    if kind == "bool":
        return values > 0, [str(int(v > 0)) for v in values], ""
    if kind == "words":
        return words[values], [str(w) for w in words[values]], ""
    if kind == "bytes":
        return np.array([w.encode() for w in words])[values], [str(w) for w in words[values]], ""
    if kind == "one-hot":
        return np.eye(3)[values], [str(v) for v in values], ""
    if kind == "bad":
        choices: list[tuple[np.ndarray, str]] = [
            (values - 1, "go down to -1"),
            (values + 0.5, "not whole numbers"),
            (values[:-1], f"for {n} images"),
            (np.array(words[values], dtype=object), "Python objects"),
            (np.ones((n, 2)), "not one-hot"),
        ]
        stored, refused = choices[int(draw.integers(len(choices)))]
        return stored, [None] * n, refused
    stored = ids[values].astype(str(draw.choice(["u2", ">i4", "i8"])))
    if kind == "floats":
        stored = stored.astype(np.float32)
    return (stored[:, None] if kind == "column" else stored), [str(i) for i in ids[values]], ""


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("make", [of_files, of_arrays, of_styles])
def test_300_random_sets(make: Any, part: int, tmp_path: Path) -> None:
    """160 sets of files, 120 arrays, 20 of StyleGAN's."""
    for number in range({of_files: 16, of_arrays: 12, of_styles: 2}[make]):
        draw = np.random.default_rng([part, number, len(make.__name__)])
        case = make(draw, tmp_path, number)
        try:
            check(case)
        except Exception as error:
            raise AssertionError(f"{make.__name__} part {part} number {number}: {error}") from error
