"""What all tests share: one thread, folders of their own, and a run that takes a second."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import TINY

from distgan.config import RunConfig, load_config


def pytest_configure(config: pytest.Config) -> None:
    """Tests run on CPUs, on whatever machine, but for those of `-m gpu`: before anything has looked for a GPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place for decoded images and statistics of all tests, so that none touches the user's."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def isolated(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster, cache or data of the person who runs the tests; one thread, as bit-for-bit comparisons want it."""
    import torch

    monkeypatch.setenv("DISTGAN_CACHE", str(caches / "decoded"))
    monkeypatch.setenv("DISTGAN_DATA", str(caches / "known"))
    for variable in ("RAY_ADDRESS", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Any:
    """The packaged digits, read without the package: tensors uint8 (10000, 1, 28, 28) and int64 (10000,)."""
    import gzip

    import numpy as np
    import torch

    import distgan

    folder = Path(distgan.__file__).parent / "kinds" / "image" / "mnist10k"
    images = np.frombuffer(gzip.decompress((folder / "images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()), torch.from_numpy(labels.astype(np.int64))


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., RunConfig]:
    """`tiny(**{"section.field": value})`: the tiny run with changes, stored below the test's own folder."""

    def make(**changes: Any) -> RunConfig:
        return load_config(overrides={**TINY, "storage": str(tmp_path / "runs"), "name": "tiny", **changes})

    return make
