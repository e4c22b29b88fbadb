"""Labels of any type, numbered by the values that occur."""

from __future__ import annotations

import numpy as np
import pytest

from distgan.kinds.image.labels import class_labels


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (np.array([1, 2, 1], np.int64), ("1", "2"), [0, 1, 0]),
        (np.array([4000, 7, 4000], ">u2"), ("7", "4000"), [1, 0, 1]),
        (np.array([[3], [5], [3]], np.uint8), ("3", "5"), [0, 1, 0]),
        (np.array([10.0, 2.0, 10.0], np.float32), ("2", "10"), [1, 0, 1]),
        (np.array([True, False, True]), ("0", "1"), [1, 0, 1]),
        (np.array(["dog", "cat", "dog"]), ("cat", "dog"), [1, 0, 1]),
        (np.array(["Käse".encode(), b"ei", b"ei"]), ("Käse", "ei"), [0, 1, 1]),
        (np.eye(3)[[2, 0, 2]], ("0", "2"), [1, 0, 1]),
        (np.array([2**63, 5, 2**63], np.uint64), ("5", str(2**63)), [1, 0, 1]),
    ],
)
def test_the_values_that_occur_are_the_classes(values: np.ndarray, names: tuple[str, ...], labels: list[int]) -> None:
    found, classes = class_labels(values, 3)
    assert found.dtype == np.int64
    assert found.tolist() == labels
    assert classes == names


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(40), "40 different values for 40 images"),
        (np.arange(40) % 21, "21 different values"),
        (np.array([0, -1] * 20), "go down to -1"),
        (np.array([0.5, 1.0] * 20), "not whole numbers"),
        (np.array([np.nan, 1.0] * 20), "not whole numbers"),
        (np.ones((40, 3)), r"shape \(40, 3\) and not one-hot"),
        (np.zeros(39), r"shape \(39,\) for 40 images"),
        (np.zeros(40, complex), "type complex128"),
        (np.array([b"\xff"] * 40), "no UTF-8"),
        (np.zeros((40, 2, 2)), "shape"),
    ],
)
def test_labels_that_make_no_classes(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_labels(values, 40)


def test_as_many_classes_as_half_the_images_are_taken() -> None:
    assert len(class_labels(np.arange(40) % 20, 40)[1]) == 20
    assert len(class_labels(np.arange(6), 6)[1]) == 6
