"""What DCGAN's generator has of its own: how its maps grow."""

import pytest
import torch

from distgan.config import ConfigError, load_config
from distgan.models import build_generator, check_models
from distgan.models.layers import BilinearConv, he_init, up_conv


def pattern_of_every_second_pixel(layer):
    """How far the pixels of a 2 x 2 square differ in what `layer` makes of a map without any structure."""
    with torch.no_grad():
        made = layer(torch.ones(1, 8, 6, 6))[0, :, 2:-2, 2:-2]
    return float((made[:, 0::2, 0::2] - made[:, 1::2, 1::2]).abs().mean() / made.abs().mean())


def test_bilinear_upsampling_leaves_no_checkerboard_where_transposed_convolutions_do():
    torch.manual_seed(0)
    assert pattern_of_every_second_pixel(up_conv(8, 4, he_init)) > 0.3
    assert pattern_of_every_second_pixel(BilinearConv(8, 4, he_init)) < 1e-5


@pytest.mark.parametrize(("channels", "resolution"), [(1, 28), (3, 32), (1, 64)])
@pytest.mark.parametrize("n_classes", [0, 3])
def test_a_bilinear_generator_makes_images_of_the_size(channels, resolution, n_classes):
    model = load_config(overrides={"model.g_upsampling": "bilinear", "model.g_width": 4}).model
    G = build_generator(model, channels=channels, resolution=resolution, n_classes=n_classes)
    c = torch.tensor([0, 2]) if n_classes else None
    x = G(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), c)
    assert x.shape == (2, channels, resolution, resolution)
    assert 0.1 < float(x.detach().std()) < 0.9  # neither grey nor saturated
    x.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in G.parameters())


def test_families_with_a_way_of_their_own_refuse_it():
    model = load_config(overrides={"model.name": "r3gan", "model.g_upsampling": "bilinear"}).model
    with pytest.raises(
        ConfigError, match=r"model.g_upsampling = 'bilinear': model.name = 'r3gan' has a way of its own"
    ):
        check_models(model, channels=3, resolution=32)
