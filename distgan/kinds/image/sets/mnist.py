"""MNIST: handwritten digits (LeCun et al., 1998)."""

from distgan.kinds.image.sets.base import SIXTY, Known, idx_files

SET = Known(
    "mnist",
    "MNIST",
    (1, 28, 28),
    SIXTY,
    idx_files,
    label_md5={"train": "a25bea736e30d166cdddb491f175f624", "test": "27ae3e4e09519cfbb04c629615203637"},
)
