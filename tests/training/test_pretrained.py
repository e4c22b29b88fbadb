"""A run with a discriminator on frozen features: interrupted and resumed it is the same; other weights are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distgan.config import ConfigError, RunConfig
from distgan.models.pretrained import find_weights
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context

SETTINGS: dict[str, Any] = {
    "model.name": "dcgan",
    "model.pretrained": "efficientnet-lite0",
    "model.g_width": 2,
    "model.d_width": 1,
    "model.g_norm": "batch",
    "model.d_norm": "spectral",
    "loss.name": "hinge",
    "batch_size": 16,
    "checkpoint.every_kimg": 0.064,
    "log.every_kimg": 0.032,
    "metrics.names": "[]",
    "kimg": 0.192,
}


def train(config: RunConfig, stop_at: int = 0) -> Folder:
    prepared, context = prepare(config), Context(torch.device("cpu"))

    def stop(status: dict[str, Any]) -> None:
        if 0 < stop_at <= status["nimg"]:
            context.request_stop()

    loop.train(prepared.config, context, prepared.folder, on_tick=stop)
    return prepared.folder


def newest(folder: Folder) -> dict[str, Any]:
    found = CheckpointStore(folder).newest()
    assert found is not None
    return found[1]


def test_interrupted_and_resumed_is_uninterrupted_and_other_weights_are_refused(tiny, tmp_path, monkeypatch):
    whole = newest(train(tiny(**SETTINGS, name="whole")))
    config = tiny(**SETTINGS)
    train(config, stop_at=96)
    seen = newest(train(config))
    assert seen["nimg"] == whole["nimg"] == 192
    for part in ("G", "D"):
        assert all(torch.equal(a, b) for a, b in zip(seen[part].values(), whole[part].values(), strict=True))
    trained = [name for name in whole["D"] if name.startswith("heads.") and not name.endswith(("._u", "._v"))]
    assert len(whole["d_opt"]) == len(trained)

    state = torch.load(find_weights("efficientnet-lite0", None), weights_only=True)
    state["_bn0.bias"] = state["_bn0.bias"] + 0.1
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"model\.pretrained = .*other weights"):
        train(tiny(**SETTINGS | {"kimg": 0.256, "model.pretrained_weights": str(tmp_path / "other.pth")}))


def test_workers_must_read_the_same_weights(tiny, monkeypatch):
    """The first worker's hash is what all compare with."""
    monkeypatch.setattr(Context, "broadcast", lambda self, value: (*value[:2], "0" * 64))
    with pytest.raises(ConfigError, match=r"model\.pretrained: the workers read different weights"):
        train(tiny(**SETTINGS))


def test_a_file_may_move_and_is_found_from_other_folders(tiny, tmp_path, monkeypatch):
    torch.save(torch.load(find_weights("efficientnet-lite0", None), weights_only=True), tmp_path / "net.pth")
    monkeypatch.chdir(tmp_path)
    config = tiny(**SETTINGS, **{"model.pretrained_weights": "net.pth"})
    train(config, stop_at=96)
    assert prepare(config).config.model.pretrained_weights == str(tmp_path / "net.pth")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "net.pth").rename(tmp_path / "elsewhere" / "net.pth")
    moved = tiny(**SETTINGS, **{"model.pretrained_weights": "elsewhere/net.pth"})
    assert newest(train(moved))["nimg"] == 192
