"""Images from a generator, as a grid, an array, or single files; or walks between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from distgan.config import ConfigError
from distgan.export.generator import GRID_CLASSES, Generator, find_generator, load_generator
from distgan.export.walk import write_walk
from distgan.kinds.image.grid import enlargement, make_grid, png
from distgan.text import count, did_you_mean


def write_samples(
    source: str,
    n: int,
    out: str,
    *,
    seed: int = 0,
    label: str | None = None,
    storage: str = "./runs",
    walk: int | None = None,
) -> str:
    """Write n images of the generator at `source` (see `find_generator`) and say what was written.

    out: FILE.png, a grid; FILE.npy, uint8 (N, H, W) for grey or (N, H, W, 3); anything else: a folder of PNG files.
    Image i of a seed is always the same, whatever n. With `walk` steps, each image turns into another: see
    `write_walk`, which makes FILE.gif too. ConfigError for a bad number, seed, label or place.
    """
    if n < 1:
        raise ConfigError(f"-n {n}: allowed: at least 1")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed {seed}: allowed: a whole number from 0 to 2^63 - 1")
    target = Path(out).expanduser()
    kind = target.suffix.lower()
    if kind == ".gif" and walk is None:
        raise ConfigError(f"--out {out}: a .gif shows a walk: give --walk STEPS too, for example --walk 24")
    if (
        "://" in out
        or kind not in (".png", ".npy", ".gif", "")
        or (not kind and target.is_file())
        or (kind and target.is_dir())
    ):
        raise ConfigError(
            f"--out {out}: allowed: FILE.png (a grid), FILE.npy, FILE.gif (a walk), or a folder, on this machine"
        )
    if kind == ".png" and walk is None and n > 10000:
        raise ConfigError(f"-n {n}: a grid holds at most 10000 images; write FILE.npy or a folder")

    generator = load_generator(
        find_generator(source, storage), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    number = find_label(generator, label)
    columns = None
    if (
        generator.conditional
        and number is None
        and 1 < len(generator.classes) <= GRID_CLASSES
        and n % len(generator.classes) == 0
    ):
        columns = len(generator.classes)
    try:
        (target if not kind else target.parent).mkdir(parents=True, exist_ok=True)
        if walk is not None:
            write_walk(generator, target, n, walk, seed=seed, label=number)
        elif not kind:
            width, written = len(str(n - 1)), 0
            for batch in generator.batches(n, seed, number):
                for image in batch.numpy():
                    (target / f"{written:0{width}d}.png").write_bytes(png(make_grid(image[None], pad=0)))
                    written += 1
        else:
            images = torch.cat(list(generator.batches(n, seed, number))).numpy()
            if kind == ".png":
                target.write_bytes(png(make_grid(images, columns), enlargement(generator.resolution)))
            else:
                array = images.transpose(0, 2, 3, 1)
                np.save(target, array[..., 0] if generator.channels == 1 else array)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})") from None
    what = f"{count(n, 'image')} of" if walk is None else f"{count(n, 'walk')} of {walk} steps by"
    return f"{what} {generator.info['run']} at {generator.info['kimg']:g} kimg: {target}"


def find_label(generator: Generator, label: str | None) -> int | None:
    """A class's number from its name or number; ConfigError lists the classes."""
    if label is None:
        return None
    if not generator.conditional:
        raise ConfigError(f"--label {label}: this generator was trained without labels; leave --label out")
    classes = generator.classes
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    raise ConfigError(
        f"--label {label}: no such class; allowed: {shown}, or 0 to {len(classes) - 1}{did_you_mean(label, classes)}"
    )
