"""Samples from a generator, in the formats of their kind; or walks between them."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from distgan.config import ConfigError
from distgan.export.generator import EACH, GRID_CLASSES, Generator, Label, find_generator, load_generator
from distgan.export.walk import ANIMATIONS, STEPS, write_walk
from distgan.kinds.picture import PICTURES
from distgan.text import count, did_you_mean


def write_samples(
    source: str | Generator,
    n: int,
    out: str | None,
    *,
    seed: int = 0,
    label: str | None = None,
    storage: str = "./runs",
    walk: int | None = None,
    truncation: float = 1.0,
) -> str:
    """Write n samples of a generator, or of the one at `source` (see `find_generator`), and say what was written.

    out: a file in one of the formats of the kind of sample, or where it has that a folder; None for RUN-seed0.png and
    the like in the working folder. Images: FILE.png, .jpg or .webp, a grid;
    FILE.npy, uint8 (N, H, W) for grey, (N, H, W, 3) or, with opacity, (N, H, W, 4); FILE.npz, that and the classes; a
    folder of PNG files. Sample i of a seed is always the same, whatever n. label: a class, "each" for all in turn (a
    grid has a column for each), None for classes as often as in the data. With `walk` steps, each sample turns into
    another: see `write_walk`, which makes FILE.gif and FILE.mp4 too, of 24 steps unless said. truncation: see
    `Generator.decoded`.
    ConfigError for a bad number, seed, label or place.
    """
    check_numbers(n, seed, truncation)
    if isinstance(source, Generator):
        generator = source
    else:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = load_generator(find_generator(source, storage), device)
    check_styles(generator, truncation)
    kind, suffixes = generator.kind, generator.kind.suffixes
    if out is None:
        words = [str(generator.info["run"]), *([label] if label is not None else []), f"seed{seed}"]
        out = re.sub(r"[^\w.-]", "_", "-".join(words)) + (suffixes[0] if walk is None else ".gif")
    target = Path(os.path.expanduser(out))
    suffix = target.suffix.lower()
    if suffix in ANIMATIONS and walk is None:
        walk = STEPS
    known = suffixes if walk is None else (*PICTURES, *ANIMATIONS, "", *(s for s in suffixes if s == ".npy"))
    if "://" in out or suffix not in known or (target.is_dir() if suffix else target.is_file()):
        files = [f"FILE{s}" for s in suffixes if s]
        folder = " or a folder," if "" in suffixes or walk is not None else ""
        raise ConfigError(
            f"--out {out}: allowed: {', '.join(files)}, FILE.gif or FILE.mp4 (walks),{folder} on this machine"
        )
    chosen = find_label(generator, label)
    if not suffix and target.is_dir() and any(target.iterdir()):
        raise ConfigError(
            f"--out {out}: there are files in it, which would be mixed with the new ones; give a new folder"
        )
    columns = len(generator.classes) if chosen == EACH and len(generator.classes) <= GRID_CLASSES else None
    try:
        with written_aside(target) as aside:
            if walk is not None:
                write_walk(generator, aside, n, walk, seed=seed, label=chosen, truncation=truncation)
            else:
                labels = generator.labels(torch.arange(n), seed, chosen)
                kind.save(
                    (batch.numpy() for batch in generator.batches(n, seed, chosen, truncation=truncation)),
                    n,
                    aside,
                    columns,
                    labels.numpy() if labels is not None else None,
                    generator.classes,
                )
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error})") from None
    what = f"{count(n, kind.noun.removesuffix('s'))} of" if walk is None else f"{count(n, 'walk')} of {walk} steps by"
    return f"{what} {generator.info['run']} at {generator.info['kimg']:g} kimg: {target}"


def check_numbers(n: int, seed: int, truncation: float) -> None:
    """Raise ConfigError for numbers that no generator takes."""
    if n < 1:
        raise ConfigError(f"-n {n}: allowed: at least 1")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed {seed}: allowed: a whole number from 0 to 2^63 - 1")
    if not 0 <= truncation <= 1:
        raise ConfigError(
            f"--truncation {truncation:g}: allowed: 0 (every sample the mean one of its class) to 1 (all as drawn)"
        )


def check_styles(generator: Generator, truncation: float) -> None:
    """Raise ConfigError for a truncation that this generator cannot do."""
    if truncation != 1 and not generator.has_styles:
        raise ConfigError(
            f"--truncation {truncation:g}: the generator of {generator.model.generator or generator.model.name} has no "
            "styles to move towards the mean; allowed for runs with --model.name style; leave --truncation out"
        )


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A place beside `target`, a file or (without a suffix) a folder, that takes its name when it is whole. Raises
    OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        if not target.suffix:
            aside.mkdir()
        yield aside
        os.replace(aside, target)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def find_label(generator: Generator, label: str | None) -> Label:
    """A class's number from its name or number, EACH from "each"; ConfigError lists the classes."""
    if label is None:
        return None
    if not generator.conditional:
        raise ConfigError(f"--label {label}: this generator was trained without labels; leave --label out")
    classes = generator.classes
    if label in classes:
        return classes.index(label)
    if label == EACH:
        return EACH
    numbered = all(name.isdecimal() for name in classes)  # then a number is a name, and no place in the list
    if label.isdecimal() and int(label) < len(classes) and not numbered:
        return int(label)
    shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    places = "" if numbered else f", 0 to {len(classes) - 1}"
    raise ConfigError(
        f"--label {label}: no such class; allowed: {shown}{places}, or each (all in turn){did_you_mean(label, classes)}"
    )
