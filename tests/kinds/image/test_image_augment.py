"""Augmentation: identity, exactness, twice differentiable, and the same whoever draws it."""

import pytest
import torch

from distgan.config import AugmentConfig
from distgan.kinds.image.augment import Augment, _Warp

ALL = ["flip", "rotate90", "translate", "rotate", "scale", "colour", "cutout"]


def pipeline(kind, policy=ALL, seed=0):
    return Augment(AugmentConfig(kind=kind, policy=policy), seed)


def images(n=6, channels=3, side=16, **kwargs):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0), **kwargs) * 2 - 1


@pytest.mark.parametrize("kind", ["none", "diffaugment", "ada"])
@pytest.mark.parametrize("p", [0.0, torch.tensor(0.0)])
def test_p_zero_is_the_identity_bit_for_bit(kind, p):
    x = images()
    assert torch.equal(pipeline(kind)(x, torch.arange(6), p, "d/real"), x)


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
@pytest.mark.parametrize("channels", [1, 3])
def test_draws_follow_from_seed_stream_and_index(kind, channels):
    x, index = images(channels=channels), torch.arange(6) + 100
    whole = pipeline(kind)(x, index, 0.7, "s")
    parts = torch.cat([pipeline(kind)(x[i::3], index[i::3], 0.7, "s") for i in range(3)])
    torch.testing.assert_close(whole[[0, 3, 1, 4, 2, 5]], parts, atol=1e-6, rtol=0)
    assert torch.equal(whole, pipeline(kind)(x, index, torch.tensor(0.7), "s"))
    assert not torch.equal(whole, pipeline(kind)(x, index, 0.7, "other"))
    assert not torch.equal(whole, pipeline(kind, seed=1)(x, index, 0.7, "s"))
    assert torch.isfinite(whole).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_probability_of_a_transformation(kind, name):
    x = images(2000, side=8)
    met = (pipeline(kind, [name])(x, torch.arange(2000), 0.4, "s") != x).flatten(1).any(1).float().mean()
    share = {"flip": 0.5, "rotate90": 0.75}.get(name, 1.0)
    if name == "translate":
        share = 1 - 1 / 9  # no shift at all is one of 3 x 3
    if name == "colour":
        share = (1 - 0.6**3) / 0.4
    assert float(met) == pytest.approx(0.4 * share, abs=0.05)


def test_flips_turns_and_shifts_are_exact():
    x, index = images(200, 1, 8), torch.arange(200)
    flipped = pipeline("ada", ["flip"])(x, index, 1.0, "s")
    assert all(min(float((f - g).abs().max()) for g in (a, a.flip(2))) < 1e-5 for f, a in zip(flipped, x, strict=True))
    turned = pipeline("ada", ["rotate90"])(x, index, 1.0, "s")
    kinds = [
        min(range(4), key=lambda k: float((t - a.rot90(k, (1, 2))).abs().max())) for t, a in zip(turned, x, strict=True)
    ]
    assert all(float((t - a.rot90(k, (1, 2))).abs().max()) < 1e-4 for t, a, k in zip(turned, x, kinds, strict=True))
    assert set(kinds) == {0, 1, 2, 3}
    shifted = pipeline("diffaugment", ["translate"])(x, index, 1.0, "s")
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    options = [padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    error = torch.stack([(shifted - o).abs().amax((1, 2, 3)) for o in options])
    assert float(error.amin(0).max()) < 1e-5
    assert len(set(error.argmin(0).tolist())) == 9


def test_grey_images_have_no_saturation_and_cutout_is_a_hole():
    hole = pipeline("ada", ["cutout"])(torch.ones(50, 1, 16, 16), torch.arange(50), 1.0, "s")
    assert set(hole.unique().tolist()) == {0.0, 1.0}
    area = (hole == 0).flatten(1).sum(1)  # at a corner a quarter of the square of 8 x 8 is inside
    assert int(area.min()) >= 16
    assert int(area.max()) <= 64


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_twice_differentiable(kind):
    x = images(3, 2, 5, dtype=torch.float64).requires_grad_()
    apply = pipeline(kind)

    def f(x):
        return apply(x, torch.arange(3), 1.0, "s")

    assert torch.autograd.gradcheck(f, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: f(x).pow(3).sum(), x, fast_mode=True)


@pytest.mark.parametrize("padding", ["zeros", "reflection"])
def test_the_warp_is_its_own_adjoint_pair(padding):
    x = images(2, 1, 5, dtype=torch.float64).requires_grad_()
    y = images(2, 1, 5, dtype=torch.float64).flip(0)
    grid = torch.rand(2, 5, 5, 2, dtype=torch.float64) * 3 - 1.5
    warped = _Warp.apply(x, grid, padding)
    (back,) = torch.autograd.grad(warped, x, y, create_graph=True)
    torch.testing.assert_close((warped * y).sum(), (x * back).sum())
    assert torch.autograd.gradgradcheck(lambda x: _Warp.apply(x, grid, padding).sin(), x, fast_mode=True)


def test_r1_through_the_pipeline_reaches_the_discriminator():
    x = images(4).requires_grad_()
    weight = torch.randn(3, 16, 16, requires_grad=True)
    seen = pipeline("ada")(x, torch.arange(4), 1.0, "s")
    (g,) = torch.autograd.grad((seen * weight).pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), weight)
    assert torch.isfinite(second).all()
    assert float(second.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_autocast_changes_nothing(kind):
    """bf16 holds 8 bits of a place in the image; and neither derivative may meet it."""
    x, index = images().requires_grad_(True), torch.arange(6)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = pipeline(kind)(x, index, 0.8, "s")
            gradient = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
            second = torch.autograd.grad(gradient.square().sum(), x)[0]
        found.append((y, gradient, second))
    for plain, cast in zip(*found, strict=True):
        assert cast.dtype == torch.float32
        assert torch.equal(plain, cast)


def oblong(n, channels=3, **kwargs):
    return torch.rand(n, channels, 8, 16, generator=torch.Generator().manual_seed(0), **kwargs) * 2 - 1


def test_images_that_are_not_square_are_flipped_turned_and_shifted_exactly():
    x, index = oblong(300), torch.arange(300)
    flipped = pipeline("ada", ["flip"])(x, index, 1.0, "s")
    assert all(min(float((f - g).abs().max()) for g in (a, a.flip(2))) < 1e-5 for f, a in zip(flipped, x, strict=True))
    turned = pipeline("ada", ["rotate90"])(x, index, 1.0, "s")  # upside down, or not: a quarter would not fit
    errors = torch.stack([(turned - other).abs().amax((1, 2, 3)) for other in (x, x.flip(2, 3))])
    assert float(errors.amin(0).max()) < 1e-5
    assert 100 < int(errors.argmin(0).sum()) < 200
    shifted = pipeline("diffaugment", ["translate"])(x, index, 1.0, "s")  # up to 1 down, up to 2 to the side
    padded = torch.nn.functional.pad(x, (2, 2, 1, 1))
    options = [padded[:, :, i : i + 8, j : j + 16] for i in range(3) for j in range(5)]
    error = torch.stack([(shifted - o).abs().amax((1, 2, 3)) for o in options])
    assert float(error.amin(0).max()) < 1e-5
    assert len(set(error.argmin(0).tolist())) == 15


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_a_turn_keeps_shapes(kind):
    """A square in the middle of a wide image stays one: as wide as high, whatever the angle."""
    x = torch.zeros(60, 1, 32, 64)
    x[:, :, 10:22, 26:38] = 1
    turned = pipeline(kind, ["rotate"])(x, torch.arange(60), 1.0, "s")
    turned[:, :, :, :16] = turned[:, :, :, -16:] = 0  # ada mirrors what lies outside
    rows, columns = torch.arange(32.0)[:, None] - 15.5, torch.arange(64.0)[None] - 31.5
    mass = turned.sum((1, 2, 3))
    tall, wide = ((turned[:, 0] * place**2).sum((1, 2)) / mass for place in (rows, columns))
    assert float((mass - 144).abs().max()) < 8
    torch.testing.assert_close(tall, wide, atol=0.8, rtol=0)  # both 12^2 / 12; taken for square, wide would be 4 times
    assert float((turned - x).abs().amax((1, 2, 3)).mean()) > 0.2


def test_a_cutout_is_half_as_high_and_as_wide():
    hole = pipeline("ada", ["cutout"])(torch.ones(50, 1, 8, 16), torch.arange(50), 1.0, "s")[:, 0] == 0
    assert int(hole.any(2).sum(1).max()) == 4
    assert int(hole.any(1).sum(1).max()) == 8


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_colour_leaves_opacity_alone(kind):
    x = oblong(100, 4)
    changed = pipeline(kind, ["colour"])(x, torch.arange(100), 1.0, "s")
    assert torch.equal(changed[:, 3], x[:, 3])
    assert torch.equal(changed[:, :3], pipeline(kind, ["colour"])(x[:, :3], torch.arange(100), 1.0, "s"))


@pytest.mark.parametrize("kind", ["diffaugment", "ada"])
def test_images_with_opacity_that_are_not_square_are_twice_differentiable(kind):
    x = oblong(2, 4, dtype=torch.float64)[:, :, :3, :5].contiguous().requires_grad_()

    def f(x):
        return pipeline(kind)(x, torch.arange(2), 1.0, "s")

    assert torch.autograd.gradcheck(f, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: f(x).pow(3).sum(), x, fast_mode=True)
