"""Images in a .npy or .npz file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import ConfigError, DataConfig
from distgan.kinds.base import Progress, SampleSet, SampleSpec
from distgan.kinds.image.cache import Writer, cached
from distgan.kinds.image.identity import identity
from distgan.kinds.image.image_set import Labels, Pixels, first, image_spec, in_memory
from distgan.kinds.image.pixels import Target, in_chunks

IMAGE_KEYS = ("images", "x", "data", "x_train", "train_images", "arr_0")
LABEL_KEYS = ("labels", "y", "targets", "y_train", "train_labels", "arr_1")
IN_MEMORY = 1 << 28  # bytes; results up to this size are made anew at every start, larger ones go through the cache


class ArraySource:
    """A .npy file (N, H, W), (N, H, W, C) or (N, C, H, W), or a .npz with such an array and optionally labels (N,)."""

    def __init__(self, config: DataConfig, path: Path) -> None:
        self.config, self.path, self.name = config, path, path.stem
        if config.split not in ("train", "all"):
            raise ConfigError(
                f"data.split = {config.split!r}: {path} has no parts; leave data.split out and point data.name at the "
                "file you want"
            )

    def describe(self) -> SampleSpec:
        """Reads the file's header (.npy) or its arrays (.npz), and checks the range of floats."""
        n, target = first(self.config, len(self._pixels)), self._target
        _ = self._scale
        return image_spec(self.name, target.channels, target.resolution, self._classes, n)

    def open(self, progress: Progress | None = None) -> SampleSet:
        """The images as uint8. Large ones are memory-mapped, from the file itself if it has the wanted form."""
        n, target = first(self.config, len(self._pixels)), self._target
        labels = self._labels[:n] if self._labels is not None else None
        size = n * target.channels * target.resolution**2
        if size <= IN_MEMORY:
            return in_memory(np.concatenate(list(self._parts(progress))), labels, self._classes, self.name)
        key = {"file": identity(self.path), "target": vars(target), "settings": (n, self.config.labels)}
        fits = self._pixels.dtype == np.uint8 and self._pixels.shape[1:] == (
            target.channels,
            target.resolution,
            target.resolution,
        )

        def build(writer: Writer) -> None:
            in_place = (
                fits and self._pixels is self._raw and isinstance(self._raw, np.memmap) and self._raw.flags.c_contiguous
            )
            for part in self._parts(progress):
                (writer.note if in_place else writer.add)(part)
            if in_place:
                writer.keep(self.path)
            writer.labels, writer.classes = labels, self._classes

        return cached(self.config, self.name, key, build)

    def _parts(self, progress: Progress | None) -> Iterator[Pixels]:
        n, done = first(self.config, len(self._pixels)), 0
        for part in in_chunks(self._pixels[:n], self._target, self._bytes):
            yield part
            done += len(part)
            if progress and n > len(part):
                progress(f"reading {self.name}", done, n)

    def _bytes(self, values: NDArray[Any]) -> Pixels:
        if values.dtype == np.uint8:
            return values
        offset, factor = self._scale
        scaled: Pixels = np.clip(np.rint((values.astype(np.float32) + offset) * factor), 0, 255).astype(np.uint8)
        return scaled

    @cached_property
    def _file(self) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The arrays of images and labels as stored."""
        try:
            loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            with loaded:
                image_key = next((key for key in IMAGE_KEYS if key in loaded.files), None)
                if image_key is None and len(loaded.files) == 1:
                    image_key = loaded.files[0]
                if image_key is None:
                    raise ConfigError(
                        f"data.name = {self.path}: has the arrays {', '.join(loaded.files) or '(none)'}; "
                        f"allowed names for the images: {', '.join(IMAGE_KEYS)}"
                    )
                label_key = next((key for key in LABEL_KEYS if key in loaded.files and key != image_key), None)
                return loaded[image_key], loaded[label_key] if label_key and self.config.labels else None
        except ConfigError:
            raise
        except Exception as error:  # zip, zlib, header and end-of-file errors: the file is damaged or something else
            objects = any(words in str(error) for words in ("Object arrays", "Python objects"))
            reason = (
                "holds Python objects (images of different sizes?)"
                if objects
                else f"not a readable array file ({type(error).__name__})"
            )
            raise ConfigError(
                f"data.name = {self.path}: {reason}; allowed: one array of uint8 or float images of one size, "
                "(N, H, W), (N, H, W, C) or (N, C, H, W)"
            ) from None

    @property
    def _raw(self) -> NDArray[Any]:
        return self._file[0]

    @cached_property
    def _pixels(self) -> NDArray[Any]:
        """The stored images as a view (N, C, H, W)."""
        raw = self._raw
        problem = ""
        if raw.dtype != np.uint8 and raw.dtype.kind != "f":
            problem = (
                f"is of type {raw.dtype}; allowed: uint8 (array.astype('uint8') for 0..255), or floats in [0, 1] or "
                "[-1, 1]"
            )
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

    @cached_property
    def _target(self) -> Target:
        config, (channels, height, width) = self.config, self._pixels.shape[1:]
        own = min(height, width) if config.fit == "crop" else max(height, width)
        return Target(
            config.channels or (1 if channels == 1 else 3), config.resolution or own, config.fit, config.background
        )

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """(offset, factor) that take the stored values to 0..255."""
        if self._raw.dtype == np.uint8:
            return 0.0, 1.0
        low, high = np.inf, -np.inf
        for start in range(0, len(self._raw), 256):
            part = self._raw[start : start + 256]
            low, high = (
                float(np.minimum(low, part.min())),
                float(np.maximum(high, part.max())),
            )  # unlike min, these keep nan
        if low >= -1e-6 and high <= 1 + 1e-6:
            return 0.0, 255.0
        if low >= -1 - 1e-6 and high <= 1 + 1e-6:
            return 1.0, 127.5
        if np.isnan(low):
            raise ConfigError(f"data.name = {self.path}: holds NaN; allowed: floats in [0, 1] or [-1, 1], or uint8")
        raise ConfigError(
            f"data.name = {self.path}: floats from {low:g} to {high:g}; allowed: [0, 1] or [-1, 1], or uint8 "
            "(for values 0..255 save array.astype('uint8'))"
        )

    @cached_property
    def _labels(self) -> Labels | None:
        stored = self._file[1]
        if stored is None:
            return None
        stored = stored.reshape(-1) if stored.ndim == 2 and stored.shape[1] == 1 else stored
        if (
            stored.shape != (len(self._pixels),)
            or stored.dtype.kind not in "iuU"
            or (stored.dtype.kind != "U" and stored.min() < 0)
        ):
            raise ConfigError(
                f"data.name = {self.path}: labels of shape {stored.shape} and type {stored.dtype} for "
                f"{len(self._pixels)} images; allowed: one whole number >= 0 (or text) an image, or data.labels=false"
            )
        if stored.dtype.kind == "U":
            return np.unique(stored, return_inverse=True)[1].astype(np.int64)
        return stored.astype(np.int64)

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        if self._labels is None:
            return ()
        stored = self._file[1]
        if stored is not None and stored.dtype.kind == "U":
            return tuple(str(name) for name in np.unique(stored))
        return tuple(str(k) for k in range(int(self._labels.max()) + 1))
