"""The feed: what a position shows depends on the position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distgan.config import DataConfig
from distgan.kinds import SampleSet
from distgan.kinds.image import KIND
from distgan.kinds.image.image_set import in_memory
from distgan.kinds.loader import Loader
from distgan.randomness import DataOrder

CPU = torch.device("cpu")


@pytest.fixture
def images() -> SampleSet:
    random = np.random.default_rng(0)
    return in_memory(random.integers(0, 256, (37, 3, 8, 8), dtype=np.uint8), np.arange(37) % 5, tuple("abcde"), "noise")


def feed(images: SampleSet, device_mib: int = 1, mirror: bool = False) -> Loader:
    order, config = DataOrder(len(images), 3), DataConfig(mirror=mirror)
    return Loader(images, KIND, CPU, order, device_mib=device_mib, config=config, seed=3)


def test_values_and_order(images: SampleSet) -> None:
    x, labels = feed(images).batch(30, 50)  # across the end of an epoch
    chosen = DataOrder(37, 3)(30, 50)
    assert x.dtype == torch.float32
    assert torch.allclose(x, torch.from_numpy(images.samples)[chosen] / 127.5 - 1, atol=1e-6)
    assert labels is not None
    assert torch.equal(labels, chosen % 5)
    every, _ = feed(images).batch(0, 37)
    assert every.min() >= -1
    assert every.max() <= 1
    assert len(torch.unique(feed(images).order(0, 37))) == 37


def test_endpoints_of_the_range() -> None:
    extremes = in_memory(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), None, (), "extremes")
    x, labels = Loader(extremes, KIND, CPU, DataOrder(2, 0), device_mib=1, config=DataConfig()).batch(0, 2)
    assert sorted(x.flatten().tolist()) == [-1.0, 1.0]
    assert labels is None


@pytest.mark.parametrize("device_mib", [0, 1])
@pytest.mark.parametrize("mirror", [False, True])
def test_workers_together_see_what_one_sees(images: SampleSet, device_mib: int, mirror: bool) -> None:
    whole, labels = feed(images, mirror=mirror).batch(100, 124)
    for workers in (2, 3, 4):
        share = 24 // workers
        parts = [feed(images, device_mib, mirror).batch(100 + r * share, 100 + (r + 1) * share) for r in range(workers)]
        assert torch.equal(torch.cat([x for x, _ in parts]), whole)
        assert labels is not None
        assert torch.equal(torch.cat([c for _, c in parts if c is not None]), labels)


def test_mirror_flips_about_half_and_differs_between_epochs(images: SampleSet) -> None:
    plain, _ = feed(images).batch(0, 370)
    shown, _ = feed(images, mirror=True).batch(0, 370)
    flipped = (shown == plain.flip(3)).flatten(1).all(1)
    kept = (shown == plain).flatten(1).all(1)
    assert bool((flipped ^ kept).all())
    assert 0.4 < flipped.float().mean() < 0.6
    assert not torch.equal(flipped[:37], flipped[37:74])


def test_prefetched_batches_are_the_same(images: SampleSet) -> None:
    mapped, resident = feed(images, 0), feed(images)
    for step in range(6):
        mapped.prefetch((step + 1) * 10, (step + 2) * 10)
        ours, theirs = mapped.batch(step * 10, (step + 1) * 10), resident.batch(step * 10, (step + 1) * 10)
        assert torch.equal(ours[0], theirs[0])
    for step in range(20):  # hints that are never used do not pile up
        mapped.prefetch(step * 10, step * 10 + 5)
    assert len(mapped._coming) <= 4
    resident.prefetch(0, 10)
    mapped.close()
    assert torch.equal(mapped.batch(0, 5)[0], resident.batch(0, 5)[0])


def test_an_order_of_another_size_is_refused(images: SampleSet) -> None:
    with pytest.raises(ValueError, match="36 samples, the set has 37"):
        Loader(images, KIND, CPU, DataOrder(36, 0), device_mib=1, config=DataConfig())
