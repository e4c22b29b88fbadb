"""Augmentation follows overfitting, the same way whatever is logged and however often the run is interrupted."""

import json

import pytest
import torch
from test_blow_up import run
from tiny_run import TINY

from distgan.config import load_config
from distgan.training.checkpoint import CheckpointStore

STEERED = TINY | {
    "loss.name": "relativistic",
    "kimg": 6,
    "augment.kind": "diffaugment",
    "augment.p": 0.5,
    "augment.ramp_kimg": 20,
    "data.holdout": 0.25,
    "metrics.every_kimg": 100,
    "checkpoint.pause_s": 0,
}


def steered(place, target, **changes):
    return load_config(
        overrides=STEERED | {"augment.target": target, "storage": str(place), "name": "steered"} | changes
    )


def final(folder):
    return CheckpointStore(folder).newest()[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(steered(tmp_path_factory.mktemp("runs"), 0.001))


@pytest.mark.parametrize(("target", "p"), [(0.999, 0.5 - 6 / 20), (1e-9, 0.5 + 6 / 20)])
def test_p_moves_towards_the_target(tmp_path, monkeypatch, target, p):
    """Six looks, each a twentieth of the way; r_v itself is set by hand, as tiny networks have any."""
    from distgan.training import steered_augmentation

    gaps = (torch.tensor(0.5), torch.tensor(1.0))
    monkeypatch.setattr(steered_augmentation, "overfitting", lambda *logits: gaps)
    status, folder = run(steered(tmp_path, target))
    assert float(final(folder)["augment_p"]) == pytest.approx(p, abs=1e-6)
    assert status["values"]["r_v"] == pytest.approx(0.5)
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    seen = [line["augment_p"] for line in lines if "augment_p" in line]
    assert seen == sorted(seen, reverse=target > 0.5)


@pytest.mark.parametrize("changes", [{}, {"log.every_kimg": 0.3}])
def test_interrupted_or_logged_otherwise_it_takes_the_same_way(tmp_path, whole, changes):
    _, folder = run(steered(tmp_path, 0.001, **changes), stops=[700, 2500, 4100])
    a, b = final(whole[1]), final(folder)
    assert a["overfitting"] == b["overfitting"] != [0.0, 0.0]
    assert float(a["augment_p"]) == float(b["augment_p"]) != 0.5
    for part in ("G", "D"):
        assert all(torch.equal(tensor, b[part][name]) for name, tensor in a[part].items())


def test_without_a_target_nothing_is_looked_at(tmp_path):
    status, folder = run(steered(tmp_path, None, kimg=2))
    assert "r_v" not in status["values"]
    assert final(folder)["overfitting"] == [0.0, 0.0]
    assert float(final(folder)["augment_p"]) == 0.5
