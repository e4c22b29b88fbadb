"""The style family: its operations are those of the papers, signals keep their size, and upsampling leaves no
pattern.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from distgan.config import ModelConfig
from distgan.models import build_discriminator, build_generator
from distgan.models.layers import he_init, up_conv
from distgan.models.style import GAIN, SLOPE, Blur, EqualConv2d, EqualLinear, StyledConv, ToImage
from distgan.second_order import first_order

SIZE = {"channels": 3, "resolution": 32, "n_classes": 3}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def networks(width=8, conditioning="projection", **size):
    model = ModelConfig(name="style", latent_dim=8, g_width=width, d_width=width, conditioning=conditioning)
    return build_generator(model, **SIZE | size), build_discriminator(model, **SIZE | size)


def inner(x):
    """Without the edge, where maps end in zeros."""
    return x[..., 2:-2, 2:-2]


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_convolution_is_one_with_a_kernel_for_each_sample(up):
    layer, x, w = StyledConv(4, 5, 6, up=up), torch.randn(3, 4, 8, 8), torch.randn(3, 6)
    style = layer.affine(w)
    nn.init.normal_(layer.bias)
    weight = layer.weight.transpose(0, 1).flip(2, 3) if up else layer.weight  # (outputs, inputs, 3, 3)
    kernels = weight * style[:, None, :, None, None]  # Karras et al., 2020, eq. 1
    kernels = kernels / kernels.square().sum((2, 3, 4), keepdim=True).add(1e-8).sqrt()  # eq. 3
    h = F.interpolate(x, scale_factor=2, mode="bilinear") if up else x
    h = F.conv2d(h.reshape(1, -1, *h.shape[2:]), kernels.flatten(0, 1), padding=1, groups=3).view(3, 5, *h.shape[2:])
    expected = F.leaky_relu(GAIN * h + layer.bias[:, None, None], SLOPE)
    found = layer(x, w)
    assert found.shape == expected.shape
    torch.testing.assert_close(*(map(inner, (found, expected)) if up else (found, expected)), atol=1e-4, rtol=1e-4)
    # The size of a style is divided out, in an image it is not
    image = ToImage(4, 3, 6, 1.0)
    before = image(x, w)
    for part in (layer, image):
        nn.init.constant_(part.affine.bias, 7)  # it starts at 1
    torch.testing.assert_close(layer(x, 7 * w), found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(image(x, 7 * w), 7 * before, atol=1e-4, rtol=1e-4)


def test_maps_are_doubled_bilinearly_and_halved_by_means():
    x = torch.randn(2, 3, 8, 8)
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(Blur(3).up(x)[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])
    halved, full = EqualConv2d(3, 5, 3, halved=True), EqualConv2d(3, 5, 3)
    full.load_state_dict(halved.state_dict())
    torch.testing.assert_close(halved(x), F.avg_pool2d(full(x), 2))


def test_upsampling_leaves_no_pattern_of_its_own():
    """A transposed 4 x 4 convolution makes squares of a flat map, whatever its weights."""

    def pattern(h):
        h = inner(h)
        return float(h.detach().std((2, 3)).mean() / h.detach().std())

    flat = torch.ones(1, 8, 6, 6)
    assert pattern(StyledConv(8, 8, 4, up=True)(flat, torch.randn(1, 4))) < 1e-5
    assert pattern(up_conv(8, 8, he_init)(flat)) > 0.1


@pytest.mark.parametrize("width", [16, 48])
@pytest.mark.parametrize("resolution", [16, 64])
def test_signals_keep_their_size_through_all_widths_and_depths(width, resolution):
    G, D = networks(width, resolution=resolution)
    z, c, seen = torch.randn(8, 8), torch.arange(8) % 3, {}
    for name, module in (*G.named_modules(), *D.named_modules()):
        if isinstance(module, (StyledConv, EqualConv2d)):
            module.register_forward_hook(lambda _, __, h, name=name: seen.__setitem__(name, h.square().mean().sqrt()))
    with torch.no_grad():
        x = G(z, c)
        assert 0.1 < float(x.std(0).mean()) < 0.8
        assert 0.6 < float(G.map(z, c).square().mean().sqrt()) < 1.6
        assert 0.2 < float(D.features(2 * x).square().mean().sqrt()) < 3
        assert 0.05 < float(D(2 * x, c).std()) < 5
    assert len(seen) > 8
    assert all(0.2 < float(size) < 3 for size in seen.values()), seen


def test_one_rate_moves_layers_of_all_widths_alike():
    """By how much a step of Adam's, equally long for each weight, moves what a layer makes, and a hundredth of that in
    the mapping.
    """

    def moved(layer, x):
        before = layer(x)
        (before * torch.randn_like(before)).mean().backward()
        with torch.no_grad():
            layer.weight.sub_(0.01 * layer.weight.grad.sign())
            layer.bias.zero_()
            return float((layer(x) - before).square().mean().sqrt())

    narrow, wide, slow = (
        moved(EqualLinear(n, 64, rate=rate), torch.randn(1, n)) for n, rate in ((16, 1), (256, 1), (256, 0.01))
    )
    assert wide / narrow == pytest.approx(4, rel=0.5)  # sqrt(n): they all pull one way for a single sample
    assert slow == pytest.approx(wide / 100, rel=0.2)


def test_an_image_is_made_of_its_style():
    G, _ = networks()
    z, c = torch.randn(4, 8), torch.tensor([0, 1, 2, 1])
    w = G.map(z, c)
    assert w.shape == (4, 64)
    torch.testing.assert_close(G.synthesize(w), G(z, c))
    torch.testing.assert_close(G.map(3 * z, c), w)  # the length of z says nothing
    torch.testing.assert_close(G(z, c)[1:2], G(z[1:2], c[1:2]), atol=1e-5, rtol=1e-4)  # nor does its neighbour
    other = ModelConfig(name="style", latent_dim=8, g_args={"styles": 24, "layers": 8}, conditioning="none")
    deep = build_generator(other, **SIZE)
    assert deep.map(z).shape == (4, 24)
    assert len(deep.mapping.layers) == 8


def test_gradients_of_a_penalty_are_torchs():
    _, D = networks()
    x, c = torch.randn(4, 3, 32, 32, requires_grad=True), torch.arange(4) % 3

    def gradients():
        D.zero_grad()
        (g,) = torch.autograd.grad(D(x, c).sum(), x, create_graph=True)
        g.square().sum().backward()
        return [torch.zeros(()) if p.grad is None else p.grad.clone() for p in D.parameters()]

    own = gradients()
    assert sum(bool(g.abs().sum() > 0) for g in own) > len(own) / 2
    with first_order():
        theirs = gradients()
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_bf16_is_for_the_wide_maps():
    G, D = networks()
    z, c, seen = torch.randn(6, 8), torch.arange(6) % 3, {}

    def watch(name, module):
        module.register_forward_hook(lambda _, __, output: seen.__setitem__(name, output.dtype))

    for name, module in {
        "mapping": G.mapping,
        "styles": G.convs[2].affine,
        "a convolution": G.convs[2],
        "an image": G.images[1],
        "the first layer": D.first,
        "a block": D.blocks[1],
        "the last layer": D.dense,
    }.items():
        watch(name, module)
    exact = G(z, c)
    logits = D(exact, c)
    with torch.autocast("cpu", torch.bfloat16):
        x = G(z, c)
        found = D(exact, c)
    narrow = {name for name, dtype in seen.items() if dtype == torch.bfloat16}
    assert narrow == {"a convolution", "a block"}
    assert x.dtype == found.dtype == torch.float32
    assert 1e-5 < float((x - exact).detach().abs().mean()) < 0.02
    assert float((found - logits).detach().abs().max()) < 0.1 * float(logits.detach().abs().mean())


def test_512_and_1024_pixels():
    for resolution in (512, 1024):
        G, D = networks(1, conditioning="none", resolution=resolution, n_classes=0)
        x = G(torch.randn(1, 8))
        assert x.shape == (1, 3, resolution, resolution)
        assert D(x).shape == (1,)
