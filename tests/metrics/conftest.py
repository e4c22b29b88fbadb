"""Packaged digits and helpers for the tests of distgan.metrics."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import distgan

FOLDER = Path(distgan.__file__).parent / "data" / "mnist10k"


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """All packaged images uint8 (10000, 1, 28, 28) and labels int64 (10000,)."""
    images = np.frombuffer(gzip.decompress((FOLDER / "images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((FOLDER / "labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()), torch.from_numpy(labels.astype(np.int64))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
