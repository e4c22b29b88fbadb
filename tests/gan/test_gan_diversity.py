"""The sign of mode collapse against what it is meant to be."""

import pytest
import torch

from distgan.gan.diversity import diversity, main_directions
from distgan.training.train_step import CachedGenerator


def images(n, spread, seed=0):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * spread


def test_the_deviation_over_all_numbers():
    x = images(64, 1.0)
    assert float(diversity(x + 3, None)) == pytest.approx(float(x.var(0).mean().sqrt()))
    assert float(diversity(x[:1].expand(64, -1, -1, -1), None)) == pytest.approx(0, abs=1e-6)
    assert float(diversity(images(64, 0.5, 1), None)) == pytest.approx(0.5, rel=0.05)


def test_with_labels_it_is_the_deviation_within_classes():
    c = torch.arange(4).repeat(16)
    centres = images(4, 5.0, 2)[c]
    x = centres + images(64, 1.0)
    assert float(diversity(centres, c)) == pytest.approx(0, abs=1e-3)  # one image for each class is a collapse
    assert float(diversity(centres, None)) > 2  # which is why the labels count
    within = torch.cat([x[c == k] - x[c == k].mean(0) for k in range(4)]).square().sum(0).mean() / (64 - 4)
    assert float(diversity(x, c)) == pytest.approx(float(within.sqrt()), rel=1e-5)


def test_single_samples_of_a_class_have_none():
    assert float(diversity(images(4, 1.0), torch.arange(4))) == 0
    assert float(diversity(images(1, 1.0), None)) == 0


def test_the_main_directions_are_those_of_the_largest_differences():
    basis = torch.linalg.qr(images(64, 1.0).flatten(1))[0][:, :3]
    along = torch.randn(200, 3, generator=torch.Generator().manual_seed(5)) * torch.tensor([9.0, 5.0, 3.0])
    c = torch.arange(2).repeat(100)
    x = (along @ basis.T).view(200, 1, 8, 8) + 40 * c[:, None, None, None] + images(200, 0.01, 6)
    found = main_directions(x, c, 3)
    assert found.shape == (64, 3)
    assert torch.allclose(found.T @ found, torch.eye(3), atol=1e-4)
    assert torch.linalg.matrix_norm(basis.T @ found).square() == pytest.approx(3, abs=1e-3)  # the same space
    # classes that are apart are no difference within one, and rank limits their number
    assert main_directions(40.0 * c[:, None].expand(-1, 5), c, 3).shape[1] == 0
    assert main_directions(along, None, 16).shape == (3, 3)


def test_a_remembering_generator_is_the_generator():
    G = CachedGenerator(lambda z, c: z * 2)
    z, c = torch.ones(2, 3), torch.tensor([0, 1])
    assert torch.equal(G(z, c), z * 2)
    assert torch.equal(G.last[0], z * 2)
    assert G.last[1] is c
