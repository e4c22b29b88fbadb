"""Class labels: whatever values there are, numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distgan.kinds.image.image_set import Labels

FEW = 20
"""In a set of fewer images each may be a class of its own."""


def class_labels(values: NDArray[Any], n: int) -> tuple[Labels, tuple[str, ...]]:
    """(labels int64 (N,) from 0 on, names of the classes) from one value an image: numbers, text, or one-hot rows.

    The classes are the values that occur, in ascending order, and are called by them; the columns of one-hot rows are
    called by their numbers. n: images. ValueError says what is wrong with the values.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "iubf":
        values = _from_one_hot(values)
    if values.shape != (n,):
        raise ValueError(f"are of shape {values.shape} for {n:,} images; allowed: one an image")
    if values.dtype.kind == "S":
        values = _from_bytes(values)
    if values.dtype.kind == "f":
        values = _from_floats(values)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    if values.dtype.kind not in "iuU":
        raise ValueError(f"are of type {values.dtype}; allowed: whole numbers or text")
    if values.dtype.kind == "i" and n and values.min() < 0:
        raise ValueError(
            f"go down to {values.min()}; allowed: whole numbers >= 0. Leave out images without a class, often marked "
            "-1, or give them a class of their own"
        )
    classes, labels = np.unique(values, return_inverse=True)
    if n >= FEW and len(classes) > n / 2:
        raise ValueError(
            f"have {len(classes):,} different values for {n:,} images; classes need several images each (are these "
            "identifiers, or a quantity?)"
        )
    return labels.astype(np.int64).reshape(-1), tuple(str(value) for value in classes)


def _from_one_hot(rows: NDArray[Any]) -> NDArray[Any]:
    if rows.shape[1] > 1 and np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all():
        return np.asarray(np.argmax(rows, axis=1))
    raise ValueError(f"are of shape {rows.shape} and not one-hot; allowed: one class an image")


def _from_bytes(values: NDArray[Any]) -> NDArray[Any]:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        raise ValueError("are bytes that are no UTF-8 text") from None


def _from_floats(values: NDArray[Any]) -> NDArray[Any]:
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or (np.abs(values) > 2**53).any():
        raise ValueError("are not whole numbers; allowed: whole numbers or text (is this a quantity, or missing?)")
    return values.astype(np.int64)
