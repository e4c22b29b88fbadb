"""Images in a .npy or .npz file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec
from distgan.kinds.image.cache import Writer, cached
from distgan.kinds.image.depth import DIM, Range, Scale
from distgan.kinds.image.image_set import Labels, Pixels, first, image_spec, in_memory
from distgan.kinds.image.labels import class_labels
from distgan.kinds.image.opacity import remark, transparent_images
from distgan.kinds.image.pixels import Target, in_chunks
from distgan.kinds.image.stamps import identity

IMAGE_KEYS = ("images", "image", "x", "data", "samples", "pixels", "imgs", "x_train", "train_images", "arr_0")
LABEL_KEYS = (
    *("labels", "label", "y", "targets", "target", "classes", "class", "class_labels", "category", "categories"),
    *("y_train", "train_labels", "train_label", "arr_1"),
)
SAMPLE = 200  # images that are looked at for transparent parts
IN_MEMORY = 1 << 28  # bytes; results up to this size are made anew at every start, larger ones go through the cache


class ArraySource:
    """A .npy file (N, H, W), (N, H, W, C) or (N, C, H, W), or a .npz with such an array and optionally labels (N,)."""

    def __init__(self, config: DataConfig, path: Path) -> None:
        self.config, self.path, self.name = config, path, path.stem
        self._remarks: list[str] = []
        if config.split not in ("train", "all"):
            raise ConfigError(
                f"data.split = {config.split!r}: {path} has no parts; leave data.split out and point data.name at the "
                "file you want"
            )

    def describe(self) -> SampleSpec:
        """Reads the file's header (.npy) or its arrays (.npz), and checks the range of the numbers."""
        n, target = first(self.config, len(self._pixels)), self._target
        _ = self._scale  # raises for numbers that mean nothing
        return image_spec(self.name, target.channels, target.resolution, self._labels[1], n)

    def open(self, progress: Progress | None = None) -> SampleSet:
        """The images as uint8. Large ones are memory-mapped, from the file itself if it has the wanted form."""
        n, target = first(self.config, len(self._pixels)), self._target
        labels, classes = self._labels
        remarks = [text for text in (self._scale.said, *self._remarks, self._transparency()) if text]
        size = n * target.channels * math.prod(target.size)
        if size <= IN_MEMORY:
            return in_memory(np.concatenate(list(self._parts(progress))), labels, classes, self.name, remarks)
        key = {"file": identity(self.path), "target": vars(target), "settings": (n, self.config.labels)}
        fits = self._pixels.dtype == np.uint8 and self._pixels.shape[1:] == (target.channels, *target.size)
        fits = fits and target.channels != 4  # colours are stored multiplied by the opacity

        def build(writer: Writer) -> None:
            in_place = (
                fits
                and self._scale.factor == 1
                and self._pixels is self._raw
                and isinstance(self._raw, np.memmap)
                and self._raw.flags.c_contiguous
            )
            for part in self._parts(progress):
                (writer.note if in_place else writer.add)(part)
            if in_place:
                writer.keep(self.path)
            writer.labels, writer.classes, writer.remarks = labels, classes, remarks

        return cached(self.config, self.name, key, build)

    def _transparency(self) -> str:
        """A remark on transparent parts, from up to SAMPLE of the images; "" where there is nothing to tell."""
        n = first(self.config, len(self._pixels))
        looked = self._pixels[:n][:: -(-n // SAMPLE)]
        with_parts = 0
        if looked.shape[1] == 4:
            with_parts = transparent_images(self._bytes(np.ascontiguousarray(looked)))
        return remark(self._target.channels, with_parts, len(looked), self.config.background)

    def _parts(self, progress: Progress | None) -> Iterator[Pixels]:
        n, done = first(self.config, len(self._pixels)), 0
        for part in in_chunks(self._pixels[:n], self._target, self._bytes):
            yield part
            done += len(part)
            if progress and n > len(part):
                progress(f"reading {self.name}", done, n)

    def _bytes(self, values: NDArray[Any]) -> Pixels:
        if values.dtype == np.uint8 and self._scale.factor == 1:
            return values
        if self._opacity is None:
            return self._scale.apply(values)
        return np.concatenate([self._scale.apply(values[:, :3]), self._opacity.apply(values[:, 3:])], axis=1)

    @cached_property
    def _file(self) -> tuple[NDArray[Any], str, NDArray[Any] | None]:
        """The array of images as stored, the name of the labels' ("" without), and these."""
        try:
            loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, "", None
            with loaded:
                return self._members(loaded)
        except ConfigError:
            raise
        except Exception as error:  # zip, zlib, header and end-of-file errors: the file is damaged or something else
            reason = (
                "holds Python objects (images of different sizes?)"
                if _is_pickled(error)
                else f"not a readable array file ({type(error).__name__})"
            )
            raise ConfigError(
                f"data.name = {self.path}: {reason}; allowed: one array of uint8 or float images of one size, "
                "(N, H, W), (N, H, W, C) or (N, C, H, W)"
            ) from None

    def _members(self, loaded: Any) -> tuple[NDArray[Any], str, NDArray[Any] | None]:
        named = {key.lower(): key for key in reversed(loaded.files)}
        image_key = next((named[key] for key in IMAGE_KEYS if key in named), None)
        if image_key is None and len(loaded.files) == 1:
            image_key = loaded.files[0]
        if image_key is None:
            raise ConfigError(
                f"data.name = {self.path}: has the arrays {', '.join(loaded.files) or '(none)'}; "
                f"allowed names for the images: {', '.join(IMAGE_KEYS)}"
            )
        images = loaded[image_key]
        label_key = next((named[key] for key in LABEL_KEYS if key in named and named[key] != image_key), "")
        unused = [key for key in loaded.files if key not in (image_key, label_key)]
        if not self.config.labels:
            return images, "", None
        if unused:
            self._remarks.append(
                f"of its arrays {', '.join(loaded.files)} the images are {image_key} and the labels "
                f"{label_key or '(none: an array named labels would be)'}"
            )
        try:
            return images, label_key, loaded[label_key] if label_key else None
        except Exception as error:
            if not _is_pickled(error):
                raise
            raise ConfigError(
                f"data.name = {self.path}: the array {label_key} holds Python objects, which are never loaded; save it "
                f"as {label_key}.astype(str) or as whole numbers, or train without labels: data.labels=false"
            ) from None

    @property
    def _raw(self) -> NDArray[Any]:
        return self._file[0]

    @cached_property
    def _pixels(self) -> NDArray[Any]:
        """The stored images as a view (N, C, H, W)."""
        raw = self._raw
        problem = ""
        if raw.dtype.kind not in "uibf":
            problem = f"is of type {raw.dtype}; allowed: whole numbers or floats, best uint8"
        elif raw.ndim not in (3, 4) or 0 in raw.shape:
            problem = f"has shape {raw.shape}; allowed: (N, H, W), (N, H, W, C) or (N, C, H, W), none of them 0"
        elif raw.ndim == 3 and raw.shape[-1] in (1, 3, 4):
            problem = f"has shape {raw.shape}, which looks like one image; allowed: N images, (N, H, W, C)"
        if problem:
            raise ConfigError(f"data.name = {self.path}: {problem}")
        if raw.ndim == 3:
            return raw[:, None]
        last, second = raw.shape[3] in (1, 3, 4), raw.shape[1] in (1, 3, 4)
        if last and second:  # tiny images: the layout that makes them square
            last = raw.shape[1] == raw.shape[2]
        if not last and not second:
            raise ConfigError(
                f"data.name = {self.path}: has shape {raw.shape}; allowed: 1, 3 or 4 channels, second or last"
            )
        return raw.transpose(0, 3, 1, 2) if last else raw

    def own_size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        height, width = self._pixels.shape[2:]
        return height, width

    @cached_property
    def _target(self) -> Target:
        config, (channels, height, width) = self.config, self._pixels.shape[1:]
        own = min(height, width) if config.fit == "crop" else max(height, width)
        return Target(config.channels or (1 if channels == 1 else 3), config.size or own, config.fit, config.background)

    @cached_property
    def _scale(self) -> Scale:
        """What the stored numbers mean."""
        return self._scale_of(slice(0, 3))

    @cached_property
    def _opacity(self) -> Scale | None:
        """What those of the fourth channel mean, which may have another range."""
        return self._scale_of(slice(3, 4)) if self._pixels.shape[1] == 4 else None

    def _scale_of(self, channels: slice) -> Scale:
        found: Range | None = None
        for start in range(0, len(self._pixels), 256):
            part = Range.of(self._pixels[start : start + 256, channels])
            found = part if found is None else found | part
            if self._raw.dtype == np.uint8 and found.high > DIM:
                return Scale(0, 1)  # bytes of 0 to 255: there is nothing to find out
        assert found is not None
        if self._raw.dtype == np.uint8 and found.high > 1:
            return Scale(0, 1, f"no number is above {found.high:.0f} of 255, so that the images are dark")
        try:
            return found.scale()
        except ValueError as error:
            raise ConfigError(f"data.name = {self.path}: {error}") from None

    @cached_property
    def _labels(self) -> tuple[Labels | None, tuple[str, ...]]:
        """Labels of the images in use, and the names of their classes."""
        _, key, stored = self._file
        if stored is None:
            return None, ()
        total, n = len(self._pixels), first(self.config, len(self._pixels))
        try:
            if stored.shape[:1] != (total,):
                raise ValueError(f"are of shape {stored.shape} for {total:,} images; allowed: one an image")
            return class_labels(stored[:n], n)
        except ValueError as error:
            raise ConfigError(
                f"data.name = {self.path}: the labels (array {key}) {error}; data.labels=false trains without"
            ) from None


def _is_pickled(error: Exception) -> bool:
    return any(words in str(error) for words in ("Object arrays", "Python objects"))
