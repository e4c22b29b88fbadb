"""Readers of the raw files of known sets. None of them runs code from a file."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.config import ConfigError
from distgan.kinds.image.image_set import Labels, Pixels

Raw = tuple[Pixels, Labels | None]  # images (N, C, H, W) and labels (N,)


def idx_shape(file: Path) -> tuple[int, ...]:
    """Dimensions that an idx file of bytes (gzipped or not) declares. ValueError if it is no such file."""
    with plain(file) as stream:
        head = stream.read(4)
        if len(head) != 4 or head[:3] != b"\0\0\x08" or not head[3]:
            raise ValueError("not an idx file of unsigned bytes")
        return tuple(int(side) for side in np.frombuffer(stream.read(4 * head[3]), ">u4"))


def read_idx(file: Path) -> Pixels:
    """An idx file of bytes, gzipped or not. ValueError if it is damaged."""
    shape = idx_shape(file)
    with plain(file) as stream:
        values = np.frombuffer(stream.read(), np.uint8, offset=4 + 4 * len(shape))
    if len(values) != math.prod(shape):
        raise ValueError(f"holds {len(values)} bytes where its header says {shape}")
    return values.reshape(shape)


def read_idx_pair(files: list[Path]) -> Raw:
    """MNIST's layout: images (N, H, W) and labels (N,)."""
    images, labels = read_idx(files[0]), read_idx(files[1])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"images of shape {images.shape} with labels of shape {labels.shape}")
    return images[:, None], labels.astype(np.int64)


def read_pickles(files: list[Path]) -> Raw:
    """CIFAR's python batches: dicts with "data" (n, 3072) and "labels" or "fine_labels"."""
    return _batches([file.read_bytes() for file in files])


def tar_of_pickles(members: Callable[[str], bool]) -> Callable[[list[Path]], Raw]:
    """A reader of CIFAR's .tar.gz for the members that are wanted by name."""

    def read(files: list[Path]) -> Raw:
        with tarfile.open(files[0], "r:gz") as archive:
            found = {}
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and members(name) and (stream := archive.extractfile(member)):
                    found[name] = stream.read()
        return _batches([found[name] for name in sorted(found)])

    return read


def _batches(blobs: list[bytes]) -> Raw:
    images, labels = [], []
    for blob in blobs:
        batch = safe_unpickle(blob)
        batch = (
            {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
            if isinstance(batch, dict)
            else {}
        )
        answers = batch.get("fine_labels", batch.get("labels"))
        if "data" not in batch or answers is None or np.asarray(batch["data"]).dtype != np.uint8:
            raise ValueError("not one of CIFAR's python batches")
        images.append(np.asarray(batch["data"]).reshape(-1, 3, 32, 32))
        labels.append(np.asarray(answers, np.int64).reshape(-1))
    if not images or sum(map(len, images)) != sum(map(len, labels)):
        raise ValueError("no complete batch of CIFAR in it")
    return np.concatenate(images), np.concatenate(labels)


def read_mat(files: list[Path]) -> Raw:
    """SVHN's .mat: X (32, 32, 3, N), y (N, 1) with 10 for the digit 0."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ConfigError(
            "data.name = svhn: its .mat files are read by SciPy, which is not installed; fix: pip install scipy"
        ) from None
    content = loadmat(files[0])
    return content["X"].transpose(3, 2, 0, 1), content["y"].astype(np.int64).reshape(-1) % 10


def read_stl(files: list[Path]) -> Raw:
    """STL-10's .bin: images stored column by column, labels from 1."""
    images = np.fromfile(files[0], np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
    return images, np.fromfile(files[1], np.uint8).astype(np.int64) - 1 if len(files) > 1 else None


def plain(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """The file opened for reading, through gzip if it is zipped."""
    with open(file, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if zipped else open(file, "rb")


# ---------------------------------------------------------------------------------------------------------------------
# Pickles


def safe_unpickle(data: bytes) -> Any:
    """Unpickle containers, numbers, text, bytes and NumPy arrays of numbers. pickle.UnpicklingError for anything else.

    Only the names below resolve, and to stand-ins of ours, so neither a file's choice of function nor NumPy's own
    unpickling code is ever run.
    """
    return _settle(_Unpickler(io.BytesIO(data), encoding="bytes").load())


class _Dtype:
    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        self.order = order.decode() if isinstance(order, bytes) else str(order)

    def real(self) -> np.dtype[Any]:
        if self.name[:1] not in ("u", "i", "f", "b"):
            raise pickle.UnpicklingError(f"arrays of type {self.name} are not allowed")
        return np.dtype(f"{self.order}{self.name}" if self.order in ("<", ">") else self.name)


class _Array:
    def __init__(self, *_: Any) -> None:
        self.value: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.value = np.frombuffer(raw, dtype.real()).reshape(shape, order="F" if column_major else "C")


def _from_buffer(raw: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.value = np.frombuffer(raw, dtype.real()).reshape(shape, order="F" if order == "F" else "C")
    return array


def _scalar(dtype: _Dtype, raw: Any) -> Any:
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype.real())[0]


def _text_to_bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    ALLOWED: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _text_to_bytes,
        ("builtins", "bytearray"): bytearray,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which a data file has no use for") from None


def _settle(value: Any) -> Any:
    """Containers with our stand-ins replaced by the arrays they stand for."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _settle(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_settle(entry) for entry in value)
    return value
