"""Samples that are in memory, as a file that every worker, and every later start, can read."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import ConfigError
from distgan.storage import user_cache

ALLOWED = (
    "a known set, a path, or samples in memory: an array or tensor N x H x W, N x H x W x C or N x C x H x W (uint8, "
    "or float from 0 to 1 or -1 to 1), a pair (samples, labels) of such, or a data set of torch's with a length, whose "
    "items are samples or pairs (sample, label)"
)


def is_given(data: Any) -> bool:
    """Whether `data` are samples in memory, and not the name of some or settings."""
    return not (data is None or isinstance(data, str | os.PathLike | Mapping)) and not hasattr(data, "model_dump")


def keep_arrays(data: Any) -> str:
    """Write samples that are in memory into the user's cache, and return the file's path: an .npz named by its content,
    so that the same samples have the same file. Raises ConfigError for what is none of ALLOWED.
    """
    samples, labels = arrays_of(data)
    return str(keep(samples, labels, user_cache() / "arrays"))


def arrays_of(data: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(samples (N, ...), labels (N,) or None) of what ALLOWED names. Raises ConfigError."""
    if isinstance(data, tuple) and len(data) == 2 and is_array(data):
        return _array(data[0]), _array(data[1])
    if is_array(data):
        return _array(data), None
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise ConfigError(f"data = {type(data).__name__}: allowed: {ALLOWED}")
    return stacked((data[i] for i in range(len(data))), getattr(data, "classes", None))


def stacked(items: Iterable[Any], classes: Sequence[str] | None = None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(samples (N, ...), labels (N,) or None) of single samples, or pairs (sample, label). classes: what labels are
    called. Raises ConfigError where samples differ in shape.
    """
    samples, labels = [], []
    for item in items:
        pair = isinstance(item, tuple | list)
        samples.append(_array(item[0] if pair else item))
        if pair and len(item) > 1:
            labels.append(item[1])
    shapes = sorted({sample.shape for sample in samples})
    if len(shapes) != 1 or len(shapes[0]) not in (2, 3):
        shown = ", ".join(" x ".join(map(str, shape)) or "a number" for shape in shapes[:3]) or "none"
        raise ConfigError(
            f"data: the samples are of shape {shown}; allowed: one shape for all, H x W, H x W x C or C x H x W. "
            "Resize them before, or give the path of a folder of images, where sizes may differ"
        )
    if labels and len(labels) != len(samples):
        raise ConfigError(f"data: {len(labels):,} labels for {len(samples):,} samples; allowed: one each, or none")
    if not labels:
        return np.stack(samples), None
    found = np.asarray([label.item() if hasattr(label, "item") else label for label in labels])
    if (
        classes is not None
        and found.dtype.kind in "iu"
        and found.size
        and 0 <= found.min() <= found.max() < len(classes)
    ):
        found = np.asarray([str(name) for name in classes])[found]
    return np.stack(samples), found


def keep(samples: NDArray[Any], labels: NDArray[Any] | None, folder: Path) -> Path:
    """Write an .npz named by its content into `folder`; nothing is written if it is there."""
    digest = hashlib.blake2b(digest_size=6)
    for array in (samples, labels):
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
    target = folder / f"array-{digest.hexdigest()}.npz"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.stem}-{uuid.uuid4().hex[:8]}.tmp")
        try:
            with open(aside, "wb") as file:
                arrays: dict[str, Any] = {"images": samples} | ({} if labels is None else {"labels": labels})
                np.savez(file, **arrays)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return target


def _array(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    try:
        found = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data: a sample is no array ({error}); allowed: {ALLOWED}") from None
    if found.dtype == object:
        raise ConfigError(f"data: {type(value).__name__} is no array of numbers; allowed: {ALLOWED}")
    return found


def is_array(data: Any) -> bool:
    """Whether `data` is an array or tensor, or a tuple of such."""
    first = data[0] if isinstance(data, tuple) and data else data
    return hasattr(first, "shape") and hasattr(first, "dtype")
