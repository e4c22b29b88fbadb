"""CIFAR-10: small photographs of ten things (Krizhevsky, 2009)."""

from distgan.kinds.image.sets.base import FIFTY, Known, cifar10_files

SET = Known(
    "cifar10",
    "CIFAR10",
    (3, 32, 32),
    FIFTY,
    cifar10_files,
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
