"""A folder or .zip archive of image files as a set: looked at through a sample, decoded once in parallel into the
cache.
"""

from __future__ import annotations

import functools
import io
import operator
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec, some
from distgan.kinds.image.archives import ZipReader
from distgan.kinds.image.cache import Writer, cached
from distgan.kinds.image.classes import Listing, by_folder, dealt, without_masks
from distgan.kinds.image.dataset_json import DatasetJson
from distgan.kinds.image.deep_values import colour_of, deep_values
from distgan.kinds.image.depth import Range, Scale
from distgan.kinds.image.files import Entry, FolderReader, Found
from distgan.kinds.image.headers import readable_formats
from distgan.kinds.image.image_set import Pixels, first, image_spec
from distgan.kinds.image.opacity import remark
from distgan.kinds.image.parts import Placed, below_common, choose_part
from distgan.kinds.image.pixels import (
    FRAMES,
    TRANSPARENT,
    DeepPixelsError,
    Target,
    check_size,
    chunk,
    decode,
    deep_range,
    flatten,
    orientation_of,
    processors,
)
from distgan.text import count, printable

ALIKE = 20  # files whose size must be the same for all to be taken as of that size
SAMPLE = 200  # files that resolution and channels are derived from where they are not set


class FolderSource:
    """Images in files. `path` is a folder or a .zip archive."""

    def __init__(
        self, config: DataConfig, path: Path, name: str = "", keep: Callable[[str], bool] | None = None
    ) -> None:
        self.config, self.path, self._keep = config, path, keep
        self.name = name or (path.stem if path.is_file() else path.resolve().name)

    def describe(self) -> SampleSpec:
        """Counts files, unreadable ones included; opens up to 200 of them where resolution or channels must be
        derived.
        """
        listing, target = self.listing, self.target
        return image_spec(self.name, target.channels, target.resolution, listing.classes, len(listing.entries))

    def open(self, progress: Progress | None = None) -> SampleSet:
        """The decoded images. ConfigError if too many files are unreadable."""
        listing, target = self.listing, self.target
        with closing(self.reader()) as reader:
            place = reader.place()
        key = {
            "place": place,
            "files": [(entry.name, *entry.stamp) for entry in listing.entries],
            "labels": listing.label_of,
            "classes": listing.classes,
            "target": vars(target),
        }
        result = cached(self.config, self.name, key, lambda writer: self._decode(writer, progress))
        # The cache may have been made under a more generous setting, and beside other files.
        self._tolerate(result.skipped)
        return replace(result, remarks=(*listing.remarks, *result.remarks))

    def reader(self) -> FolderReader | ZipReader:
        """Access to the files."""
        return FolderReader(self.path) if self.path.is_dir() else ZipReader(self.path)

    @cached_property
    def listing(self) -> Listing:
        """The files in use, in order, and their classes."""
        with closing(self.reader()) as reader:
            found = reader.find()
            entries = [entry for entry in found.entries if self._keep is None or self._keep(entry.name)]
            if not entries:
                raise self._nothing(found)
            placed = below_common([(PurePosixPath(entry.name).parts, entry) for entry in entries])
            placed, remarks = choose_part(placed, self.config.split)
            listing, told = self._classes(placed, DatasetJson(self.path, found.indexes, reader.read))
        for index in found.indexes:
            if index.name not in told and self.config.labels:
                found.pass_over(index.name)
        listing = dealt(listing)
        n = first(self.config, len(listing.entries))
        if not self.config.labels:
            return Listing(listing.entries[:n], None, (), (*found.notes, *remarks))
        if n < len(listing.classes):
            raise ConfigError(
                f"data.limit = {n}: {self.path} has {len(listing.classes)} classes; allowed: at least one image for "
                "each, or data.labels=false"
            )
        labels = listing.label_of[:n] if listing.label_of is not None else None
        bare = _without_images(found, placed) if self._keep is None else []
        if bare:
            remarks.append(f"no images in the folders {some(bare)}")
        return Listing(listing.entries[:n], labels, listing.classes, (*found.notes, *remarks, *listing.remarks))

    def _classes(self, placed: list[Placed], index: DatasetJson) -> tuple[Listing, tuple[str, ...]]:
        """The files with the classes that dataset.json or else the folders name; and which files dataset.json do."""
        named = index.names([entry for _, entry in placed]) if self.config.labels else None
        if named is None:
            placed, remarks = without_masks(placed)
            listing = by_folder(placed)
            return replace(listing, remarks=(*remarks, *listing.remarks)), ()
        order = sorted(range(len(placed)), key=lambda i: (placed[i][0], placed[i][1].name, placed[i][1].member))
        entries: list[Entry] = [placed[i][1] for i in order]
        labels = [named.labels[i] for i in order] if named.labels is not None else None
        return Listing(entries, labels, named.classes, named.remarks), named.used

    def _nothing(self, found: Found) -> ConfigError:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.others.most_common(5))
        inner = next((name for name in found.examples if name.lower().endswith((".zip", ".npy", ".npz"))), "")
        held = f"only {kinds}" if kinds else "only folders" if found.folders else "it is empty"
        return ConfigError(
            f"data.name = {self.path}: no image files there ({held}); "
            "allowed: PNG, JPEG, WebP, BMP, GIF, TIFF, PPM and the like, in the folder itself or in sub-folders. "
            + (f"For what is in {inner} give that file. " if inner and self.path.is_dir() else "")
            + "For the raw files of a known set give its name (data.name=cifar10) and this folder as data.root"
        )

    @cached_property
    def target(self) -> Target:
        """What the images become: as set, or derived from a sample spread over the files."""
        config, entries = self.config, self.listing.entries
        sides: list[int] = []
        problems: list[str] = []
        grey = True
        wanted = Target(3, 1, background=config.background)
        sample = [entries[i * len(entries) // min(SAMPLE, len(entries))] for i in range(min(SAMPLE, len(entries)))]
        with closing(self.reader()) as reader, _quiet():
            for entry in sample:
                try:
                    size, plain = _look(reader.read(entry), wanted, grey and config.channels is None)
                except Exception as error:  # any damage; the file is met again, and counted, when it is decoded
                    problems.append(_reason(entry, error))
                    continue
                sides.append(min(size))
                grey = grey and plain
                if config.channels is not None and config.resolution is not None:
                    break  # one readable file is enough
        if not sides:
            raise ConfigError(f"data.name = {self.path}: none of {len(sample)} files could be read: {some(problems)}")
        derived = min(64, max(16, 1 << (int(statistics.median(sides)).bit_length() - 1)))
        return Target(config.channels or (1 if grey else 3), config.size or derived, config.fit, config.background)

    def own_size(self) -> tuple[int, int] | None:
        """(height, width) of the images, where the first few that can be read agree; else the shorter side of the first
        one, twice.
        """
        sizes: list[tuple[int, int]] = []
        with closing(self.reader()) as reader, _quiet():
            for entry in self.listing.entries:
                try:
                    sizes.append(_look(reader.read(entry), Target(3, 1), colours=False)[0])
                except Exception:  # is met again, and counted, when it is decoded
                    continue
                if len(sizes) == ALIKE:
                    break
        if not sizes:
            return None
        width, height = sizes[0] if len(set(sizes)) == 1 else (min(sizes[0]), min(sizes[0]))
        return height, width

    def _decode(self, writer: Writer, progress: Progress | None) -> None:
        listing, target = self.listing, self.target
        total, kept = len(listing.entries), []

        noticed: list[str] = []
        scale: Scale | None = None

        with closing(self.reader()) as reader, _quiet(), ThreadPoolExecutor(processors()) as pool:

            def one(i: int) -> Pixels | str | None:
                entry, told = listing.entries[i], list[str]()
                try:
                    pixels = decode(reader.read(entry), target, scale, told.append)
                except DeepPixelsError:
                    return None
                except Exception as error:  # Pillow's decoders raise many kinds; each means that it is unreadable
                    return _reason(entry, error)
                noticed.extend(told)
                return pixels

            step = chunk(0, target)
            for start in range(0, total, step):
                numbers = range(start, min(start + step, total))
                mark = len(noticed)
                results = list(pool.map(one, numbers))
                if any(result is None for result in results):
                    # The first deep images: only now is it worth a look at all files, for the scale of the set
                    scale = self._scale(reader, pool)
                    del noticed[mark:]
                    results = list(pool.map(one, numbers))
                good = [
                    (i, result) for i, result in zip(numbers, results, strict=True) if isinstance(result, np.ndarray)
                ]
                writer.skipped += [result for result in results if isinstance(result, str)]
                self._tolerate(writer.skipped)
                kept += [i for i, _ in good]
                if good:
                    writer.add(np.stack([pixels for _, pixels in good]))
                if progress:
                    progress(f"decoding {self.name}", numbers.stop, total)
        if not kept:
            raise ConfigError(f"data.name = {self.path}: none of {total} files could be read: {some(writer.skipped)}")
        writer.remarks += [scale.said] if scale is not None and scale.said else []
        if several := noticed.count(FRAMES):
            writer.remarks.append(f"{count(several, 'file')} of several pages or frames: the first is taken")
        told = remark(target.channels, noticed.count(TRANSPARENT), len(kept), target.background)
        writer.remarks += [told] if told else []
        if listing.label_of is not None:
            writer.labels = np.array(listing.label_of, np.int64)[kept]
            writer.classes = listing.classes
            counts = np.bincount(writer.labels, minlength=len(listing.classes))
            lost = [name for name, count in zip(listing.classes, counts, strict=True) if not count]
            if lost:
                raise ConfigError(
                    f"data.name = {self.path}: no image of the class {some(lost)} can be read: {some(writer.skipped)}; "
                    "repair the files, or remove the class"
                )

    def _scale(self, reader: FolderReader | ZipReader, pool: ThreadPoolExecutor) -> Scale:
        """What the numbers of all images of more than 8 bits mean, together."""

        def one(entry: Entry) -> Range | None:
            try:
                return deep_range(reader.read(entry))
            except Exception:  # is met again, and counted, when it is decoded
                return None

        entries = self.listing.entries
        found = [(entry.name, each) for entry, each in zip(entries, pool.map(one, entries), strict=True) if each]
        kinds = {each.whole: name for name, each in found}
        if len(kinds) > 1:
            raise ConfigError(
                f"data.name = {self.path}: {kinds[True]} holds whole numbers, {kinds[False]} floats, which have no "
                "scale in common; save all of one type"
            )
        try:
            return functools.reduce(operator.or_, [each for _, each in found]).scale()
        except ValueError as error:
            raise ConfigError(f"data.name = {self.path}: the images hold {error}") from None

    def _tolerate(self, skipped: Sequence[str]) -> None:
        total = len(self.listing.entries)
        if len(skipped) > self.config.max_bad_share * total:
            raise ConfigError(
                f"data.max_bad_share = {self.config.max_bad_share}: at least {len(skipped)} of {total} files in "
                f"{self.path} cannot be read: {some(skipped)}; repair or remove them, or raise data.max_bad_share"
            )


def _without_images(found: Found, placed: list[Placed]) -> list[str]:
    """Folders beside those that make classes, or that hold everything, without an image anywhere in them."""
    full: set[str] = set()
    for folder in {entry.name.rpartition("/")[0] for entry in found.entries}:
        while folder not in full:
            full.add(folder)
            folder = folder.rpartition("/")[0]
    levels: set[str] = set()
    for folder, depth in {(entry.name.rpartition("/")[0], len(path) - 1) for path, entry in placed}:
        names = folder.split("/") if folder else []
        levels.update("/".join(names[:i]) for i in range(len(names) - max(depth, 1) + 1))
    return sorted(name for name in found.folders if name.rpartition("/")[0] in levels and name not in full)


def _look(data: bytes, wanted: Target, colours: bool) -> tuple[tuple[int, int], bool]:
    """Size (width, height) of an image file, and whether it is grey (decoded for that only where `colours` asks and
    the mode does not tell).
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        check_size(image)
        lies = image.format in ("JPEG", "MPO") and orientation_of(image) > 4
        size = image.size[::-1] if lies else image.size
        if not colours or (
            (image.mode in ("1", "L", "F") or image.mode.startswith("I")) and "transparency" not in image.info
        ):
            return size, True
        deep = deep_values(data, image)
        if deep is not None and deep.ndim == 3:
            colour = colour_of(deep)
            return size, bool((colour == colour[..., :1]).all())
        image.draft(None, (64, 64))  # type: ignore[arg-type]
        image.load()
        pixels = np.asarray(flatten(image, wanted))
        return size, bool((pixels == pixels[..., :1]).all())


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of damaged metadata and of sizes that are checked here; such files are counted instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(entry: Entry, error: Exception) -> str:
    if entry.stamp[0] == 0:
        return printable(f"{entry.name} (empty)")
    text = str(error).strip().splitlines()
    short = text[0] if text and "BytesIO" not in text[0] else "not an image file that Pillow knows"
    return printable(f"{entry.name} ({short})")
