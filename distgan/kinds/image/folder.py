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
from functools import cached_property
from pathlib import Path

import numpy as np

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec, some
from distgan.kinds.image.cache import Writer, cached
from distgan.kinds.image.depth import Range, Scale
from distgan.kinds.image.files import Entry, FolderReader, Listing, ZipReader, arrange
from distgan.kinds.image.image_set import Pixels, first, image_spec
from distgan.kinds.image.pixels import (
    FRAMES,
    DeepPixelsError,
    Target,
    check_size,
    chunk,
    decode,
    deep_range,
    deep_values,
    flatten,
    processors,
)
from distgan.text import count, printable

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
        key = {
            "files": [(entry.name, *entry.stamp) for entry in listing.entries],
            "labels": listing.label_of,
            "target": vars(target),
        }
        result = cached(self.config, self.name, key, lambda writer: self._decode(writer, progress))
        self._tolerate(result.skipped)  # the cache may have been made under a more generous setting
        return result

    def reader(self) -> FolderReader | ZipReader:
        """Access to the files."""
        return FolderReader(self.path) if self.path.is_dir() else ZipReader(self.path)

    @cached_property
    def listing(self) -> Listing:
        """The files in use."""
        with closing(self.reader()) as reader:
            entries, others = reader.entries()
        entries = [entry for entry in entries if self._keep is None or self._keep(entry.name)]
        if not entries:
            kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
            raise ConfigError(
                f"data.name = {self.path}: no image files there ({f'only {kinds}' if kinds else 'it is empty'}); "
                "allowed: PNG, JPEG, WebP, BMP, GIF, TIFF, PPM and the like, in the folder itself or in sub-folders. "
                "For the raw files of a known set give its name (data.name=cifar10) and this folder as data.root"
            )
        listing = arrange(entries, self.config.split)
        n = first(self.config, len(listing.entries))
        labels = listing.label_of[:n] if listing.label_of is not None and self.config.labels else None
        return Listing(listing.entries[:n], labels, listing.classes if labels is not None else ())

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
                    problems.append(_reason(entry.name, error))
                    continue
                sides.append(min(size))
                grey = grey and plain
                if config.channels is not None and config.resolution is not None:
                    break  # one readable file is enough
        if not sides:
            raise ConfigError(f"data.name = {self.path}: none of {len(sample)} files could be read: {some(problems)}")
        derived = min(64, max(16, 1 << (int(statistics.median(sides)).bit_length() - 1)))
        return Target(
            config.channels or (1 if grey else 3), config.resolution or derived, config.fit, config.background
        )

    def first_side(self) -> int | None:
        """The shorter side of the first image that can be read."""
        with closing(self.reader()) as reader, _quiet():
            for entry in self.listing.entries:
                try:
                    return min(_look(reader.read(entry), Target(3, 1), colours=False)[0])
                except Exception:  # is met again, and counted, when it is decoded
                    continue
        return None

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
                    return _reason(entry.name, error)
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
        if listing.label_of is not None:
            writer.labels = np.array(listing.label_of, np.int64)[kept]
            writer.classes = listing.classes

    def _scale(self, reader: FolderReader | ZipReader, pool: ThreadPoolExecutor) -> Scale:
        """What the numbers of all images of more than 8 bits mean, together."""

        def one(entry: Entry) -> Range | None:
            try:
                return deep_range(reader.read(entry))
            except Exception:  # is met again, and counted, when it is decoded
                return None

        found = [each for each in pool.map(one, self.listing.entries) if each is not None]
        try:
            return functools.reduce(operator.or_, found).scale()
        except ValueError as error:
            raise ConfigError(f"data.name = {self.path}: the images hold {error}") from None

    def _tolerate(self, skipped: Sequence[str]) -> None:
        total = len(self.listing.entries)
        if len(skipped) > self.config.max_bad_share * total:
            raise ConfigError(
                f"data.max_bad_share = {self.config.max_bad_share}: at least {len(skipped)} of {total} files in "
                f"{self.path} cannot be read: {some(skipped)}; repair or remove them, or raise data.max_bad_share"
            )


def _look(data: bytes, wanted: Target, colours: bool) -> tuple[tuple[int, int], bool]:
    """Size of an image file, and whether it is grey (decoded for that only where `colours` asks and the mode does not
    tell).
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        check_size(image)
        size = image.size
        if not colours or (
            (image.mode in ("1", "L", "F") or image.mode.startswith("I")) and "transparency" not in image.info
        ):
            return size, True
        deep = deep_values(data, image)
        if deep is not None and deep.ndim == 3:
            colour = deep[..., : 3 if deep.shape[2] > 2 else 1]
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


def _reason(name: str, error: Exception) -> str:
    text = str(error).strip().splitlines()
    short = text[0] if text and "BytesIO" not in text[0] else "not an image file that Pillow knows"
    return printable(f"{name} ({short})")
