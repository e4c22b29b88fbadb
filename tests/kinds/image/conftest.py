from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Cache and data root below the test's own folder; returns the cache."""
    monkeypatch.setenv("DISTGAN_CACHE", str(tmp_path / "decoded"))
    monkeypatch.setenv("DISTGAN_DATA", str(tmp_path / "known"))
    return tmp_path / "decoded"


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Writes random RGB PNGs, one for each given name, into a folder and returns it."""

    def write(*names: str, folder: str = "cats", size: tuple[int, int] = (20, 16), seed: int = 0) -> Path:
        random = np.random.default_rng(seed)
        for name in names:
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file)
        return tmp_path / folder

    return write
