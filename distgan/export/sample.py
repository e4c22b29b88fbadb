"""Samples from a generator, in the formats of their kind; or walks between them."""

from __future__ import annotations

from pathlib import Path

import torch

from distgan.config import ConfigError
from distgan.export.generator import GRID_CLASSES, Generator, find_generator, load_generator
from distgan.export.walk import write_walk
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
    """Write n samples of the generator at `source` (see `find_generator`) and say what was written.

    out: a file in one of the formats of the kind of sample, or where it has that a folder. Images: FILE.png, a grid;
    FILE.npy, uint8 (N, H, W) for grey or (N, H, W, 3); a folder of PNG files. Sample i of a seed is always the same,
    whatever n. With `walk` steps, each sample turns into another: see `write_walk`, which makes FILE.gif too.
    ConfigError for a bad number, seed, label or place.
    """
    if n < 1:
        raise ConfigError(f"-n {n}: allowed: at least 1")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed {seed}: allowed: a whole number from 0 to 2^63 - 1")
    target = Path(out).expanduser()
    suffix = target.suffix.lower()
    if suffix == ".gif" and walk is None:
        raise ConfigError(f"--out {out}: a .gif shows a walk: give --walk STEPS too, for example --walk 24")
    generator = load_generator(
        find_generator(source, storage), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    kind, suffixes = generator.kind, generator.kind.suffixes
    known = suffixes if walk is None else (".png", ".gif", "", *(s for s in suffixes if s == ".npy"))
    if "://" in out or suffix not in known or (target.is_dir() if suffix else target.is_file()):
        files = [f"FILE{s}" for s in suffixes if s]
        folder = " or a folder," if "" in suffixes or walk is not None else ""
        raise ConfigError(f"--out {out}: allowed: {', '.join(files)}, FILE.gif (a walk),{folder} on this machine")
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
        (target if not suffix else target.parent).mkdir(parents=True, exist_ok=True)
        if walk is not None:
            write_walk(generator, target, n, walk, seed=seed, label=number)
        else:
            kind.save((batch.numpy() for batch in generator.batches(n, seed, number)), n, target, columns)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})") from None
    what = f"{count(n, kind.noun.removesuffix('s'))} of" if walk is None else f"{count(n, 'walk')} of {walk} steps by"
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
