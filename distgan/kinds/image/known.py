"""Known sets: found among the user's own raw files, or downloaded once, and read by our readers either way."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec
from distgan.kinds.image import formats
from distgan.kinds.image.cache import Writer, cached
from distgan.kinds.image.image_set import Labels, Pixels, first, image_spec, in_memory
from distgan.kinds.image.pixels import Target, in_chunks
from distgan.kinds.image.sets.base import Known, Layout, stl_files
from distgan.kinds.image.stamps import identity
from distgan.registry import DATA_SETS
from distgan.storage import user_cache

DEPTH, FOLDERS = 6, 5000  # how deep, and through how many folders, a set is looked for below data.root


class KnownSource:
    """A set known by name."""

    def __init__(self, config: DataConfig, known: Known) -> None:
        self.config, self.name, self.known = config, known.name, known
        if config.channels == 4:
            raise ConfigError(
                f"data.channels = 4: {self.name} has no transparent parts; allowed: 1, 3, or leave it empty"
            )
        self._found: dict[str, tuple[Layout, list[Path]]] = {}
        if config.split not in (*self.known.sizes, "all"):
            raise ConfigError(
                f"data.split = {config.split!r}: {self.name} has no such part; allowed: "
                f"{', '.join([*self.known.sizes, 'all'])}"
            )
        # The two parts with labels; extra and unlabeled are asked for by name.
        self.parts: list[str] = (
            [part for part in ("train", "test") if part in self.known.sizes]
            if config.split == "all"
            else [config.split]
        )

    def describe(self) -> SampleSpec:
        """From the files' headers if they are there, else as published; ConfigError if they are absent and may not be
        fetched.
        """
        found = {part: self._find(part) for part in self.parts}
        if None in found.values() and not self.config.download:
            raise self._absent("data.download is off")
        counts = [self.known.sizes[part] if pair is None else self._count(part, *pair) for part, pair in found.items()]
        n = first(self.config, sum(count or 0 for count in counts)) if None not in counts else None
        classes = self.known.classes if self.config.labels and self.parts != ["unlabeled"] else ()
        return image_spec(self.name, self.target.channels, self.target.resolution, classes, n)

    def open(self, progress: Progress | None = None) -> SampleSet:
        """The images; downloaded first where that is needed and allowed."""
        if not self.present():
            self._fetch()
        found = [pair for part in self.parts if (pair := self._find(part)) is not None]
        if len(found) < len(self.parts):
            raise self._absent("the download did not bring them")
        target = self.target
        resized = target.resolution != self.known.shape[1] and not target.zero_pad
        if self.known.in_idx and not resized:
            images, labels = self._read(found)
            return in_memory(np.concatenate(list(in_chunks(images, target))), labels, self.known.classes, self.name)
        key = {
            "set": (self.name, self.parts),  # one archive can hold several parts
            "files": [identity(file) for _, files in found for file in files],
            "target": vars(target),
            "settings": (self.config.labels, self.config.limit),
        }

        def build(writer: Writer) -> None:
            images, labels = self._read(found)
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
        resolution = self.config.size or height
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
        return self.known.folder or data_root(self.config)

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
                raise self._damaged(files, error) from None
            images.append(pixels)
            labels.append(answers)
        n = first(self.config, sum(map(len, images)))
        if n == 0:
            raise self._damaged([file for _, files in found for file in files], ValueError("no images in it"))
        joined = np.concatenate(images)[:n] if len(images) > 1 else images[0][:n]
        known = [answers for answers in labels if answers is not None]
        if not known or not self.config.labels:
            return joined, None
        answers = np.concatenate(known)[:n]
        if answers.size and not 0 <= answers.min() <= answers.max() < len(self.known.classes):
            raise ConfigError(
                f"data.root = {self.root}: labels from {answers.min()} to {answers.max()} in {found[0][1][-1].parent}, "
                f"but {self.name} has {len(self.known.classes)} classes; these are the files of another set"
            )
        return joined, answers

    def _count(self, part: str, layout: Layout, files: list[Path]) -> int | None:
        """Images in a part as far as its files' headers or sizes tell."""
        try:
            if self.known.in_idx:
                return formats.idx_shape(files[0])[0]
            size = sum(file.stat().st_size for file in files)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(files, error) from None
        if self.known.layouts is stl_files:
            return files[0].stat().st_size // math.prod(self.known.shape)
        official = self.known.sizes[part]
        whole = (
            2300 * official <= size <= 3300 * official
        )  # bytes per image of CIFAR's pickles and archives and of SVHN's .mat files
        return official if whole or files[0].name.endswith(".tar.gz") else None

    # -----------------------------------------------------------------------------------------------------------------
    # Finding files

    def _find(self, part: str) -> tuple[Layout, list[Path]] | None:
        """The files of one part, or None. The set's own folders come first, then others below data.root."""
        if part in self._found:
            return self._found[part]
        mistaken: list[ConfigError] = []
        for folder in self._folders():
            for layout in self.known.layouts(part):
                files = [file for names in layout.slots if (file := _present(folder, names)) is not None]
                if len(files) < len(layout.slots):
                    continue
                if (other := self._mistaken_for(part, files)) is None:
                    self._found[part] = layout, files
                    return layout, files
                mistaken.append(other)
        if mistaken:
            raise mistaken[0]
        return None

    def _folders(self) -> Iterator[Path]:
        root, title = self.root, self.known.title
        yield from (root, root / title / "raw", root / title, root / self.name)
        others = {_plain(known.title) for known in official()} - {_plain(title)}
        unnamed = []
        for folder in walk(root):
            parts = {_plain(part) for part in folder.relative_to(root).parts}
            if _plain(title) in parts:
                yield folder
            elif not parts & others:
                unnamed.append(folder)
        yield from unnamed

    def _mistaken_for(self, part: str, files: list[Path]) -> ConfigError | None:
        """MNIST and the sets made in its image share file names; their label files tell them apart."""
        if not self.known.in_idx or self.known.folder is not None:
            return None
        marks = {known.label_md5[part]: known.name for known in official() if part in known.label_md5}
        try:
            with formats.plain(files[1]) as stream:
                other = marks.get(hashlib.md5(stream.read(1 << 20), usedforsecurity=False).hexdigest(), self.name)
        except (OSError, EOFError) as error:
            return self._damaged(files[1:], error)
        if other == self.name:
            return None
        return ConfigError(
            f"data.root = {self.root}: the files in {files[1].parent} are those of {other}, not of {self.name}; "
            f"set data.name={other}, or point data.root at the folder of {self.name}"
        )

    def _damaged(self, files: list[Path], error: Exception) -> ConfigError:
        return ConfigError(
            f"data.root = {self.root}: {', '.join(map(str, files))} cannot be read as {self.name} ({error}); replace "
            "the damaged file"
        )

    def _absent(self, reason: str) -> ConfigError:
        names = [
            " + ".join(slot[0] for slot in layout.slots) for part in self.parts for layout in self.known.layouts(part)
        ]
        packed = " (each may end in .gz)" if self.known.in_idx else ""
        return absent(self.name, self.root, ", or ".join(names) + packed, reason)

    def _fetch(self) -> None:
        if not self.config.download:
            raise self._absent("data.download is off")
        from distgan.kinds.image.download import fetch

        try:
            fetch(self.known.title, list(self.parts), self.root, self.present)
        except Exception as error:  # network, proxy, disk: every kind has its own error
            raise self._absent(f"they could not be downloaded ({brief(error)})") from None


def official() -> list[Known]:
    """All sets in raw files that a person may have."""
    sets = [DATA_SETS[name] for name in DATA_SETS]
    return [known for known in sets if isinstance(known, Known) and known.folder is None]


def absent(name: str, root: Path, expected: str, reason: str) -> ConfigError:
    """The error for a known set whose files are not there."""
    return ConfigError(
        f"data.name = {name}: its files are not in {root} or below, and {reason}; expected there: {expected}. "
        "Put them there, set data.root to the folder that has them, or use data.name=mnist10k, which is built in"
    )


def brief(error: Exception) -> str:
    """An error's text on one line of bearable length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def data_root(config: DataConfig) -> Path:
    """The folder of known sets."""
    given = config.root or os.environ.get("DISTGAN_DATA")
    return (Path(os.path.expanduser(given)) if given else user_cache() / "data").absolute()


def walk(root: Path) -> Iterator[Path]:
    """Folders below root, not hidden, to a limited depth and number."""
    for count, (folder, below, _) in enumerate(os.walk(root)):
        here = Path(folder)
        depth = len(here.relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith(".")) if depth < DEPTH else []
        if count > FOLDERS:
            return
        if depth:
            yield here


def _present(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
