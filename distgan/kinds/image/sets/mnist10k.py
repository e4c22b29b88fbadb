"""10,000 of MNIST's training digits, which come with this package."""

from pathlib import Path

from distgan.kinds.image import formats
from distgan.kinds.image.sets.base import Known, Layout


def _files(part: str) -> list[Layout]:
    return [Layout((("images-idx3-ubyte.gz",), ("labels-idx1-ubyte.gz",)), formats.read_idx_pair)]


SET = Known("mnist10k", "", (1, 28, 28), {"train": 10000}, _files, folder=Path(__file__).parent.parent / "mnist10k")
