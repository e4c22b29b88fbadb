"""Generated samples beside the data: copies, noise, one sample a class, and data that leave nothing to compare with."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from distgan.config import load_config
from distgan.kinds.base import SampleSet, SampleSpec
from distgan.randomness import latents
from distgan.training.context import Context
from distgan.training.variety import Variety

KIND = SimpleNamespace(encode=lambda stored: stored.float())
CPU = Context(torch.device("cpu"))
SHAPES = [(1, 8, 8), (40,), (2, 30), (3, 4, 5, 6)]


class Made(nn.Module):
    """A generator that is a function of noise and labels, with a layer that looks at the batch."""

    def __init__(self, make):
        super().__init__()
        self.norm, self.make = nn.BatchNorm1d(1), make

    def forward(self, z, c):
        assert not self.norm.training
        self.norm(z[:, :1])
        return self.make(z, c)


def data(shape, classes=3, n=600, seed=0):
    """Smooth samples: three directions and a little noise about a centre for each class, or one centre."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    basis, centres = rng.normal(size=(3, size)), 5 * rng.normal(size=(max(classes, 1), size))
    labels = rng.integers(0, max(classes, 1), n)
    x = centres[labels] + rng.normal(size=(n, 3)) @ basis + 0.05 * rng.normal(size=(n, size))
    spec = SampleSpec("toy", shape, (-1.0, 1.0), tuple(map(str, range(classes))))
    samples = SampleSet(spec, x.reshape(n, *shape).astype(np.float32), labels if classes else None, "f")
    return samples, torch.tensor(basis).float(), torch.tensor(centres).float()


def measure(samples, make, **changes):
    conditioning = "projection" if samples.labels is not None else "none"
    config = load_config(overrides={"model.conditioning": conditioning, "model.latent_dim": 3, **changes})
    G = Made(make)
    found = Variety(config, CPU, samples, KIND)(G)
    assert G.norm.training
    assert int(G.norm.num_batches_tracked) == 0
    return found["diversity"], found["diversity_main"]


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_generators_make_beside_the_data(shape, classes):
    samples, basis, centres = data(shape, classes)

    def centre(z, c):
        return centres[c] if c is not None else centres[:1].expand(len(z), -1)

    right = measure(samples, lambda z, c: (centre(z, c) + z @ basis).view(-1, *shape))
    assert right == pytest.approx((1, 1), abs=0.15)
    half = measure(samples, lambda z, c: (centre(z, c) + z @ basis / 2).view(-1, *shape))
    assert half == pytest.approx((0.5, 0.5), abs=0.1)
    one = measure(samples, lambda z, c: centre(z, c).view(-1, *shape))
    assert one == pytest.approx((0, 0), abs=0.01)
    size = basis.shape[1]

    def noise(z, c):
        return 1.7 * latents(1, "noise", torch.arange(len(z)), size, "normal").view(-1, *shape)

    over_all, main = measure(samples, noise)
    assert over_all == pytest.approx(1, abs=0.2)
    assert main < 0.75 * over_all  # less along what the data differ in


def test_nothing_to_compare_with_is_no_collapse():
    samples, _, _ = data((4, 4), 0)
    alike = SampleSet(samples.spec, np.ones_like(samples.samples), None, "f")
    assert measure(alike, lambda z, c: torch.ones(len(z), 4, 4)) == (1, 1)
    each = SampleSet(samples.spec, samples.samples[:5], np.arange(5), "f")
    assert measure(each, lambda z, c: torch.ones(len(z), 4, 4)) == (1, 1)
    single = SampleSet(samples.spec, samples.samples[:1], None, "f")
    assert measure(single, lambda z, c: torch.ones(len(z), 4, 4)) == (1, 1)


def test_absent_and_single_classes_are_passed_over_and_all_is_the_same_again():
    samples, basis, _ = data((40,), 3)
    labels = np.where(samples.labels == 2, 7, samples.labels)
    labels[0] = 5
    odd = SampleSet(samples.spec, samples.samples, labels, "f")
    seen = []
    first = measure(odd, lambda z, c: (seen.append(c), z @ basis)[1])
    assert set(seen[0].tolist()) == {0, 1, 7}
    assert measure(odd, lambda z, c: z @ basis) == first
