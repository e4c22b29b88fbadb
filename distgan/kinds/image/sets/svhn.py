"""SVHN: house numbers (Netzer et al., 2011)."""

from distgan.kinds.image.sets.base import Known, svhn_files

SET = Known("svhn", "SVHN", (3, 32, 32), {"train": 73257, "test": 26032, "extra": 531131}, svhn_files)
