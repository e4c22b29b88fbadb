"""The memory of a step, from sizes alone, beside what a step takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from distgan.config import RunConfig, load_config
from distgan.training.memory import Memory, estimate

# A step in a process whose memory goes back to the system at once: the peak of its resident memory, less what there was
# before the networks
MEASURED = """
import json, sys, torch
from distgan.config import load_config
from distgan.training.context import Context
from distgan.training.state import TrainState
from distgan.training.train_step import TrainStep

class Kind:
    def augmentation(self, *_): return None

class Loader:
    kind, labels = Kind(), None
    def batch(self, start, stop): return torch.rand(stop - start, channels, side, side) * 2 - 1, None
    def prefetch(self, start, stop): pass

def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

settings, channels, side = json.loads(sys.argv[1])
torch.set_num_threads(1)
config, size = load_config(overrides=settings), {"channels": channels, "resolution": side}
def step(config):
    state = TrainState(config, n_classes=0, device=torch.device("cpu"), **size)
    return TrainStep(config, Context(torch.device("cpu")), state, Loader())
step(config.model_copy(update={"batch_size": 2}))()  # libraries come up
before = kib("VmRSS")
made = step(config)
made()
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
made()
print((kib("VmHWM") - before) * 1024)
"""


def peak(settings: dict[str, Any], channels: int, side: int) -> int:
    eager = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, json.dumps([settings, channels, side])],
        env=os.environ | eager | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def of(config: RunConfig, channels: int, side: int, **how: Any) -> Memory:
    found = estimate(config, shape=(channels, side, side), n_classes=0, channels=channels, resolution=side, **how)
    assert found is not None
    return found


SLOW = pytest.mark.slow
PLAIN = {"model.conditioning": "none"}
CASES = {
    "dcgan": ({"model.name": "dcgan", "batch_size": 512}, 32),
    "r3gan": ({"model.name": "r3gan", "model.g_width": 16, "model.d_width": 16, "batch_size": 16}, 64),
    "no penalties": (
        {"model.name": "resnet", "model.g_width": 16, "model.d_width": 16, "batch_size": 64}
        | {"loss.name": "hinge", "loss.r1_gamma": 0, "loss.r2_gamma": 0, "training.n_dis": 2},
        32,
    ),
    "parts": ({"model.name": "dcgan", "batch_size": 1024, "training.accumulate": 4}, 32),
}


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells a process's peak of memory")
@pytest.mark.parametrize("case", ["dcgan", "no penalties", *(pytest.param(c, marks=SLOW) for c in ("r3gan", "parts"))])
def test_the_estimate_is_what_a_step_takes(case: str) -> None:
    settings, side = CASES[case]
    told, taken = of(load_config(overrides=PLAIN | settings), 3, side).total, peak(PLAIN | settings, 3, side)
    assert 0.75 < told / taken < 1.3, (told / 2**20, taken / 2**20)


def test_parts_workers_and_bf16_need_less(tiny: Callable[..., RunConfig]) -> None:
    settings = PLAIN | {"model.name": "r3gan", "model.g_width": 8, "model.d_width": 8, "batch_size": 64}
    whole = of(load_config(overrides=settings | {"training.reuse_fakes": False}), 3, 32)
    parts = of(load_config(overrides=settings | {"training.accumulate": 4}), 3, 32)
    assert (whole.part, parts.part, parts.share) == (64, 16, 64)
    assert parts.total - parts.weights == (whole.total - whole.weights) // 4
    assert of(load_config(overrides=settings), 3, 32).per_sample > whole.per_sample  # G's graph is kept beside D's
    assert of(load_config(overrides=settings), 3, 32, workers=4).part == 16
    assert (
        of(load_config(overrides=settings), 3, 32, bf16=True).per_sample
        < 0.6 * of(load_config(overrides=settings), 3, 32).per_sample
    )
    averages = of(load_config(overrides=settings | {"training.ema_half_life_kimg": "[1, 2, 3]"}), 3, 32)
    assert averages.weights > whole.weights


def test_the_parts_that_fit() -> None:
    memory = Memory(weights=10, per_sample=2, part=32, share=32)
    assert memory.total == 74
    assert [memory.accumulate_for(free) for free in (80, 74, 73, 42, 12, 11)] == [1, 1, 2, 2, 32, None]


def test_a_network_that_needs_numbers_has_no_estimate(tiny: Callable[..., RunConfig], tmp_path, monkeypatch) -> None:
    (tmp_path / "needs_numbers.py").write_text(
        "from torch import nn\nclass G(nn.Module):\n    def __init__(self, **_):\n        super().__init__()\n"
        "    def forward(self, z, c=None):\n        return z * float(z.sum())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tiny(**{"model.generator": "needs_numbers:G"})
    assert estimate(config, shape=(1, 28, 28), n_classes=0, channels=1, resolution=28) is None


@pytest.mark.parametrize("changes", [{}, {"loss.gp_lambda": 10}, {"model.conditioning": "projection"}])
def test_every_kind_of_step_has_one(tiny: Callable[..., RunConfig], changes: dict[str, Any]) -> None:
    found = estimate(tiny(**changes), shape=(1, 28, 28), n_classes=10, channels=1, resolution=28)
    assert found is not None
    assert 0 < found.per_sample < 2**20
