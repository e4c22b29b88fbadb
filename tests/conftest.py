"""What all tests share: one thread, folders of their own, and a run that takes a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distgan.config import RunConfig, load_config

TINY: dict[str, Any] = {
    "engine": "local",
    "kimg": 1.024,
    "batch_size": 32,
    "data.limit": 256,
    "model.name": "mlp",
    "model.latent_dim": 8,
    "model.g_width": 8,
    "model.d_width": 8,
    "model.g_norm": "batch",
    "model.d_norm": "batch",
    "model.conditioning": "none",
    "loss.name": "non-saturating",
    "loss.r1_gamma": 0,
    "loss.r2_gamma": 0,
    **{
        f"optim.{player}.{name}": value
        for player in "gd"
        for name, value in (("lr", 2e-4), ("beta1", 0.5), ("beta2", 0.999), ("eps", 1e-8))
    },
    **{f"optim.{player}.{name}_schedule.kind": "constant" for player in "gd" for name in ("lr", "beta2")},
    "loss.gp_lambda": 0,
    "augment.kind": "none",
    "training.ema_half_life_kimg": "[0.2]",
    "log.every_kimg": 0.128,
    "log.samples_every_kimg": 0.512,
    "log.grid": 4,
    "log.tensorboard": False,
    "checkpoint.every_kimg": 0.256,
    "metrics.every_kimg": 0.512,
    "metrics.samples": 64,
    "metrics.final_samples": 64,
    "metrics.names": "[fid]",
}
"""A whole run, logs, measurements and checkpoints included, that takes about a second: 32 steps on 256 of the packaged digits.

It says whatever matters to a step, so that a better default recipe changes no test."""


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


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., RunConfig]:
    """`tiny(**{"section.field": value})`: the tiny run with changes, stored below the test's own folder."""

    def make(**changes: Any) -> RunConfig:
        return load_config(overrides={**TINY, "storage": str(tmp_path / "runs"), "name": "tiny", **changes})

    return make
