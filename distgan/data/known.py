"""Known sets: found among the user's own raw files, or downloaded once, and read by our readers either way."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from distgan.config import ConfigError, DataConfig
from distgan.data import formats
from distgan.data.cache import Writer, cached
from distgan.data.images import DataSpec, ImageSet, Labels, Pixels, Progress, first, in_memory
from distgan.data.pixels import CHUNK, Target, in_chunks

Slots = tuple[tuple[str, ...], ...]  # one file for each slot, under any of the slot's names
Reader = Callable[[list[Path]], formats.Raw]
DEPTH, FOLDERS = 6, 5000  # how deep, and through how many folders, a set is looked for below data.root


@dataclass(frozen=True)
class Layout:
    """One way in which a part of a set lies in a folder."""

    slots: Slots
    read: Reader


@dataclass(frozen=True)
class Known:
    """What is known of a set before it is seen."""

    title: str  # torchvision's class, and the folder that it makes
    shape: tuple[int, int, int]  # C, H, W
    sizes: dict[str, int]  # images in each official part
    layouts: Callable[[str], list[Layout]]
    classes: tuple[str, ...] = tuple("0123456789")
    label_md5: dict[str, str] = field(default_factory=dict)  # of the raw label files, where sets share file names


def _idx(part: str) -> list[Layout]:
    stem = {"train": "train", "test": "t10k"}[part]
    names = [(f"{stem}-{kind}-idx{rank}-ubyte", f"{stem}-{kind}.idx{rank}-ubyte") for kind, rank in (("images", 3), ("labels", 1))]
    return [Layout(tuple((dash, dash + ".gz", dot, dot + ".gz") for dash, dot in names), formats.read_idx_pair)]


def _cifar10(part: str) -> list[Layout]:
    names = [f"data_batch_{k}" for k in range(1, 6)] if part == "train" else ["test_batch"]
    archive = Layout((("cifar-10-python.tar.gz",),), formats.tar_of_pickles(names.__contains__))
    return [Layout(tuple((name,) for name in names), formats.read_pickles), archive]


def _cifar100(part: str) -> list[Layout]:
    archive = Layout((("cifar-100-python.tar.gz",),), formats.tar_of_pickles([part].__contains__))
    return [Layout(((part,), ("meta",)), lambda files: formats.read_pickles(files[:1])), archive]


def _svhn(part: str) -> list[Layout]:
    return [Layout(((f"{part}_32x32.mat",),), formats.read_mat)]


def _stl(part: str) -> list[Layout]:
    names = [(f"{part}_X.bin",)] + ([(f"{part}_y.bin",)] if part != "unlabeled" else [])
    return [Layout(tuple(names), formats.read_stl)]


def _celeba(part: str) -> list[Layout]:
    raise NotImplementedError  # a folder of image files; see CelebSource


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_STL = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_MNIST = {"train": "a25bea736e30d166cdddb491f175f624", "test": "27ae3e4e09519cfbb04c629615203637"}
_FASHION = {"train": "9018921c3c673c538a1fc5bad174d6f9", "test": "15d484375f8d13e6eb1aabb0c3f46965"}
_SIXTY = {"train": 60000, "test": 10000}
_FIFTY = {"train": 50000, "test": 10000}
SETS = {
    "mnist10k": Known("", (1, 28, 28), {"train": 10000}, _idx),
    "mnist": Known("MNIST", (1, 28, 28), _SIXTY, _idx, label_md5=_MNIST),
    "fashion-mnist": Known("FashionMNIST", (1, 28, 28), _SIXTY, _idx, _CLOTHES, _FASHION),
    "kmnist": Known("KMNIST", (1, 28, 28), _SIXTY, _idx, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "cifar10": Known("CIFAR10", (3, 32, 32), _FIFTY, _cifar10, _THINGS),
    "cifar100": Known("CIFAR100", (3, 32, 32), _FIFTY, _cifar100, tuple(str(k) for k in range(100))),
    "svhn": Known("SVHN", (3, 32, 32), {"train": 73257, "test": 26032, "extra": 531131}, _svhn),
    "stl10": Known("STL10", (3, 96, 96), {"train": 5000, "test": 8000, "unlabeled": 100000}, _stl, _STL),
}


class KnownSource:
    """A set known by name."""

    def __init__(self, config: DataConfig, name: str) -> None:
        self.config, self.name, self.known = config, name, SETS[name]
        if config.split not in (*self.known.sizes, "all"):
            raise ConfigError(f"data.split = {config.split!r}: {name} has no such part; allowed: {', '.join([*self.known.sizes, 'all'])}")
        # The two parts with labels; extra and unlabeled are asked for by name.
        self.parts = [part for part in ("train", "test") if part in self.known.sizes] if config.split == "all" else [config.split]

    def describe(self) -> DataSpec:
        """From the files' headers if they are there, else as published; ConfigError if they are absent and may not be fetched."""
        target, n = self.target, 0
        for part in self.parts:
            files = self._find(part)
            if files is None and not self.config.download:
                raise self._absent("data.download is off")
            n += self._count(part, files)
        classes = self.known.classes if self.config.labels and self.parts != ["unlabeled"] else ()
        return DataSpec(first(self.config, n), target.channels, target.resolution, len(classes), classes, self.name)

    def open(self, progress: Progress | None = None) -> ImageSet:
        """The images; downloaded first where that is needed and allowed."""
        found = [self._find(part) for part in self.parts]
        if None in found:
            self._fetch()
            found = [self._find(part) for part in self.parts]
        if None in found:
            raise self._absent("the download did not bring them")
        chosen = [pair for pair in found if pair is not None]
        target = self.target
        resized = target.resolution != self.known.shape[1] and not target.zero_pad
        if self.known.layouts is _idx and not resized:
            images, labels = self._read(chosen)
            return in_memory(np.concatenate(list(in_chunks(images, target))), labels, self.known.classes, self.name)
        key = {
            "set": self.name,
            "files": [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for _, files in chosen for file in files],
            "target": vars(target),
            "settings": (self.config.labels, self.config.limit),
        }

        def build(writer: Writer) -> None:
            images, labels = self._read(chosen)
            done = 0
            for part in in_chunks(images, target):
                writer.add(part)
                done += len(part)
                if progress:
                    progress(f"decoding {self.name}", done, len(images))
            writer.labels, writer.classes = labels, self.known.classes if labels is not None else ()

        return cached(self.config, self.name, key, build)

    @cached_property
    def target(self) -> Target:
        """What the images become."""
        channels, height, _ = self.known.shape
        resolution = self.config.resolution or height
        return Target(
            self.config.channels or channels,
            resolution,
            self.config.fit,
            self.config.background,
            zero_pad=height == 28 and resolution == 32,
        )

    @cached_property
    def root(self) -> Path:
        """Where the set is looked for."""
        if self.name == "mnist10k":
            return Path(__file__).parent / "mnist10k"
        return data_root(self.config)

    def present(self) -> bool:
        """Whether the files are there already."""
        return all(self._find(part) is not None for part in self.parts)

    def _read(self, found: list[tuple[Layout, list[Path]]]) -> tuple[Pixels, Labels | None]:
        images, labels = [], []
        for layout, files in found:
            try:
                pixels, answers = layout.read(files)
            except ConfigError:
                raise
            except Exception as error:  # damaged files raise whatever their format's reader does
                raise ConfigError(
                    f"data.root = {self.root}: {', '.join(map(str, files))} cannot be read as {self.name} ({error})"
                ) from None
            images.append(pixels)
            labels.append(answers)
        n = first(self.config, sum(map(len, images)))
        joined = np.concatenate(images)[:n] if len(images) > 1 else images[0][:n]
        known = [answers for answers in labels if answers is not None]
        return joined, np.concatenate(known)[:n] if known and self.config.labels else None

    def _count(self, part: str, files: tuple[Layout, list[Path]] | None) -> int:
        if files is None:
            return self.known.sizes[part]
        try:
            if self.known.layouts is _idx:
                return formats.idx_shape(files[1][0])[0]
            if self.known.layouts is _stl:
                return files[1][0].stat().st_size // math.prod(self.known.shape)
        except (OSError, ValueError, EOFError) as error:
            raise ConfigError(f"data.root = {self.root}: {files[1][0]} cannot be read as {self.name} ({error})") from None
        return self.known.sizes[part]

    # -----------------------------------------------------------------------------------------------------------------
    # Finding files

    def _find(self, part: str) -> tuple[Layout, list[Path]] | None:
        """The files of one part, or None. The set's own folders come first, then others below data.root."""
        if self.name == "mnist10k":
            layout = Layout((), formats.read_idx_pair)
            return layout, [self.root / "images-idx3-ubyte.gz", self.root / "labels-idx1-ubyte.gz"]
        for folder in self._folders():
            for layout in self.known.layouts(part):
                files = [_present(folder, names) for names in layout.slots]
                if all(files):
                    paths = [file for file in files if file is not None]
                    self._is_it(part, paths)
                    return layout, paths
        return None

    def _folders(self) -> Iterator[Path]:
        root, title = self.root, self.known.title
        yield from (root, root / title / "raw", root / title, root / self.name)
        others = {_plain(known.title) for known in SETS.values() if known.title} - {_plain(title)}
        unnamed = []
        for folder in _walk(root):
            parts = {_plain(part) for part in folder.relative_to(root).parts}
            if _plain(title) in parts:
                yield folder
            elif not parts & others:
                unnamed.append(folder)
        yield from unnamed

    def _is_it(self, part: str, files: list[Path]) -> None:
        """MNIST and the sets made in its image share file names; their label files tell them apart."""
        marks = {known.label_md5[part]: name for name, known in SETS.items() if part in known.label_md5}
        if self.known.layouts is not _idx or not marks:
            return
        with formats.plain(files[1]) as stream:
            other = marks.get(hashlib.md5(stream.read(1 << 20), usedforsecurity=False).hexdigest(), self.name)
        if other != self.name:
            raise ConfigError(
                f"data.root = {self.root}: the files in {files[1].parent} are those of {other}, not of {self.name}; "
                f"set data.name={other}, or point data.root at the folder of {self.name}"
            )

    def _absent(self, reason: str) -> ConfigError:
        names = [" + ".join(slot[0] for slot in layout.slots) for part in self.parts for layout in self.known.layouts(part)]
        packed = " (each may end in .gz)" if self.known.layouts is _idx else ""
        return ConfigError(
            f"data.name = {self.name}: its files are not in {self.root} or below, and {reason}; expected there: {', or '.join(names)}{packed}. "
            "Put them there, set data.root to the folder that has them, or use data.name=mnist10k, which is built in"
        )

    def _fetch(self) -> None:
        if not self.config.download:
            raise self._absent("data.download is off")
        from distgan.data.download import fetch

        try:
            fetch(self.known.title, self.parts, self.root, self.present)
        except Exception as error:  # network, proxy, disk: every kind has its own error
            text = str(error).strip().splitlines() or [type(error).__name__]
            raise self._absent(f"they could not be downloaded ({text[0]})") from None


def data_root(config: DataConfig) -> Path:
    """The folder of known sets."""
    return Path(config.root or os.environ.get("DISTGAN_DATA") or "~/.cache/distgan/data").expanduser().absolute()


def _walk(root: Path) -> Iterator[Path]:
    """Folders below root, not hidden, to a limited depth and number."""
    count = 0
    for folder, below, _ in os.walk(root):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith(".")) if depth < DEPTH else []
        count += 1
        if count > FOLDERS:
            return
        if depth:
            yield here


def _present(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
