"""What is known of a set before it is seen: sizes, classes, and the files that it comes in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distgan.config import DataConfig
from distgan.kinds.image import formats
from distgan.kinds.image.image_set import Source

Slots = tuple[tuple[str, ...], ...]  # one file for each slot, under any of the slot's names
Reader = Callable[[list[Path]], formats.Raw]


@dataclass(frozen=True)
class Layout:
    """One way in which a part of a set lies in a folder."""

    slots: Slots
    read: Reader


@dataclass(frozen=True)
class Known:
    """A set in raw files of its own. Called with the settings of the data it is the source of the images."""

    name: str
    title: str  # torchvision's class, and the folder that it makes
    shape: tuple[int, int, int]  # C, H, W
    sizes: dict[str, int]  # images in each official part
    layouts: Callable[[str], list[Layout]]
    classes: tuple[str, ...] = tuple("0123456789")
    label_md5: dict[str, str] = field(default_factory=dict)  # of the raw label files, where sets share file names
    folder: Path | None = None  # of sets that come with the package

    def __call__(self, config: DataConfig) -> Source:
        from distgan.kinds.image.known import KnownSource

        return KnownSource(config, self)

    @property
    def in_idx(self) -> bool:
        """Whether the files are MNIST's kind: quick to read, and told apart by their labels."""
        return self.layouts is idx_files or self.folder is not None


def idx_files(part: str) -> list[Layout]:
    stem = {"train": "train", "test": "t10k"}[part]
    names = [
        (f"{stem}-{kind}-idx{rank}-ubyte", f"{stem}-{kind}.idx{rank}-ubyte")
        for kind, rank in (("images", 3), ("labels", 1))
    ]
    return [Layout(tuple((dash, dash + ".gz", dot, dot + ".gz") for dash, dot in names), formats.read_idx_pair)]


def cifar10_files(part: str) -> list[Layout]:
    names = [f"data_batch_{k}" for k in range(1, 6)] if part == "train" else ["test_batch"]
    archive = Layout((("cifar-10-python.tar.gz",),), formats.tar_of_pickles(names.__contains__))
    return [Layout(tuple((name,) for name in names), formats.read_pickles), archive]


def cifar100_files(part: str) -> list[Layout]:
    archive = Layout((("cifar-100-python.tar.gz",),), formats.tar_of_pickles([part].__contains__))
    return [Layout(((part,), ("meta",)), lambda files: formats.read_pickles(files[:1])), archive]


def svhn_files(part: str) -> list[Layout]:
    return [Layout(((f"{part}_32x32.mat",),), formats.read_mat)]


def stl_files(part: str) -> list[Layout]:
    names = [(f"{part}_X.bin",)] + ([(f"{part}_y.bin",)] if part != "unlabeled" else [])
    return [Layout(tuple(names), formats.read_stl)]


SIXTY = {"train": 60000, "test": 10000}
FIFTY = {"train": 50000, "test": 10000}
