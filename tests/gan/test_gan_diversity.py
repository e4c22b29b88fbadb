"""The sign of mode collapse against what it is meant to be."""

import pytest
import torch

from distgan.gan.diversity import diversity
from distgan.training.train_step import CachedGenerator


def images(n, spread, seed=0):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * spread


def test_the_ratio_of_deviations():
    real = images(64, 1.0)
    assert float(diversity(real + 3, None, real, None)) == pytest.approx(1)
    assert float(diversity(images(64, 0.5, 1), None, real, None)) == pytest.approx(0.5, rel=0.05)
    assert float(diversity(real[:1].expand(64, -1, -1, -1), None, real, None)) == pytest.approx(0, abs=1e-6)


def test_one_image_for_each_class_is_a_collapse():
    c = torch.arange(4).repeat(16)
    centres = images(4, 5.0, 2)[c]
    real, copies = centres + images(64, 1.0), centres.clone()
    assert float(diversity(copies, c, real, c)) == pytest.approx(0, abs=1e-3)
    assert float(diversity(copies, None, real, None)) > 0.9  # which is why the labels count
    assert float(diversity(centres + images(64, 0.3, 3), c, real, c)) == pytest.approx(0.3, rel=0.1)
    # the unbiased variance within classes, computed one by one
    within = torch.cat([real[c == k] - real[c == k].mean(0) for k in range(4)]).square().sum(0).mean() / (64 - 4)
    assert float(diversity(real * 2, c, real, c)) == pytest.approx(2)
    assert float(diversity(real, c, torch.cat([real[:1], -real[:1]]), None)) == pytest.approx(
        float((within / (2 * real[0].square()).mean()).sqrt()), rel=1e-5
    )


def test_nothing_to_compare_with_is_no_collapse():
    x = images(4, 1.0)
    for n, c in ((1, None), (4, torch.arange(4))):
        assert float(diversity(x[:n] * 0, c, x[:n], c)) == 1
    assert float(diversity(x, None, torch.ones(4, 1, 8, 8), None)) == 1


def test_a_remembering_generator_is_the_generator():
    G = CachedGenerator(lambda z, c: z * 2)
    z, c = torch.ones(2, 3), torch.tensor([0, 1])
    assert torch.equal(G(z, c), z * 2)
    assert torch.equal(G.last[0], z * 2)
    assert G.last[1] is c
