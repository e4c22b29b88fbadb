"""Images whose height and width differ: what networks begin with, what they make, and what is refused."""

from dataclasses import replace

import pytest
import torch

from distgan.config import ConfigError, ModelConfig
from distgan.models import build_discriminator, build_generator, check, check_models
from distgan.models.sides import Base, base_of, can_be_doubled_to, nearest_to
from distgan.registry import NETWORKS

OBLONG = [name for name in NETWORKS if NETWORKS[name].oblong]


@pytest.mark.parametrize(
    ("resolution", "base"),
    [
        *((4 << k, Base(4, 4, k)) for k in range(2, 9)),
        (28, Base(7, 7, 2)),
        ((48, 64), Base(3, 4, 4)),
        ((96, 64), Base(6, 4, 4)),
        ((64, 32), Base(8, 4, 3)),
        ((36, 20), Base(9, 5, 2)),
        ((30, 64), Base(15, 32, 1)),
        ((48, 27), Base(48, 27, 0)),
    ],
)
def test_the_smallest_maps(resolution, base):
    assert base_of(resolution) == base
    height, width, doublings = base
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    assert (height << doublings, width << doublings) == sides


def test_what_can_be_made_and_what_is_near():
    made = [(48, 64), (64, 48), (96, 64), (64, 32), (64, 16), (256, 64), (28, 56), (36, 20)]
    assert all(map(can_be_doubled_to, made))
    assert not any(map(can_be_doubled_to, [(30, 64), (48, 27), (100, 64), (64, 8), (36, 44), (512, 64)]))
    assert all(nearest_to(*size, 256) == size for size in made)
    assert nearest_to(50, 70, 256) == (48, 72)
    assert nearest_to(1000, 500, 256) == (256, 128)
    for height in range(16, 300, 7):
        for width in range(16, 300, 11):
            found = nearest_to(height, width, 256)
            assert can_be_doubled_to(found)
            assert max(found) <= 256
            assert found[0] != found[1]


def model_of(name, norm="none", conditioning="none"):
    return ModelConfig(
        name=name, conditioning=conditioning, g_norm=norm, d_norm=norm, latent_dim=5, g_width=4, d_width=4
    )


@pytest.mark.parametrize("name", OBLONG)
@pytest.mark.parametrize(("resolution", "channels"), [((48, 64), 4), ((64, 16), 1)])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("conditioning", ["none", "projection"])
def test_shapes_and_gradients_of_unequal_sides(name, resolution, channels, norm, conditioning):
    if norm not in NETWORKS[name].d_norms:
        pytest.skip("the family has no such normalisation")
    torch.manual_seed(0)
    size = {"channels": channels, "resolution": resolution, "n_classes": 3}
    model = model_of(name, norm, conditioning)
    check_models(model, **size)
    G, D = build_generator(model, **size), build_discriminator(model, **size)
    c = torch.arange(4) % 3 if conditioning != "none" else None
    optimizer = torch.optim.Adam([*G.parameters(), *D.parameters()], 1e-2)
    for _ in range(2):  # layers that start at 0 hide those in front of them until they have moved
        x = G(torch.randn(4, 5), c)
        assert x.shape == (4, channels, *resolution)
        assert D(x, c).shape == (4,)
        assert D.features(x).ndim == 2
        optimizer.zero_grad()
        D(x, c).square().sum().backward()
        optimizer.step()
    for parameter in (*G.parameters(), *D.parameters()):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", OBLONG)
def test_every_pixel_of_unequal_sides_counts(name):
    """A network that took height for width would see, or make, but a part of the image."""
    torch.manual_seed(0)
    size = {"channels": 3, "resolution": (48, 64)}
    model = model_of(name)
    D = build_discriminator(model, **size)
    for p in D.parameters():  # none of those that start at 0
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(1, 3, 48, 64, requires_grad=True)
    (g,) = torch.autograd.grad(D(x).sum(), x)
    assert float((g.abs().sum(1) > 0).float().mean()) > 0.99


def refused(name, *resolution, **changes):
    model = model_of(name).model_copy(update=changes)
    with pytest.raises(ConfigError) as error:
        check_models(model, channels=3, resolution=resolution)
    return str(error.value)


def test_sides_are_told_with_the_nearest_and_the_able(monkeypatch):
    text = refused("dcgan", 50, 70)
    assert "data.resolution = 50x70" in text
    assert "set data.resolution to 48x64 (the nearest), or model.name to mlp" in text
    text = refused("dcgan", 128, 96)
    assert "from 4 up, to 64 pixels" in text
    assert text.endswith("or model.name to mlp or r3gan or resnet or style")
    assert "to 1024x512" in refused("r3gan", 2048, 1024)
    check_models(model_of("mlp"), channels=3, resolution=(50, 70))
    known = {**{name: NETWORKS[name] for name in NETWORKS}, "resnet": replace(NETWORKS["resnet"], oblong=False)}
    monkeypatch.setattr(check, "NETWORKS", known)
    assert "makes square images; set data.resolution to a side, or model.name to dcgan" in refused("resnet", 48, 64)


OWN = """
import torch

class G(torch.nn.Module):
    def __init__(self, latent_dim, channels, resolution, n_classes):
        super().__init__()
        self.shape = (channels, *(resolution if isinstance(resolution, tuple) else (resolution, resolution)))
        self.layer = torch.nn.Linear(latent_dim, self.shape[0] * self.shape[1] * self.shape[2])

    def forward(self, z, c=None):
        return self.layer(z).tanh().view(-1, *self.shape)

class Square(G):
    def __init__(self, latent_dim, channels, resolution, n_classes):
        super().__init__(latent_dim, channels, resolution + 0, n_classes)
"""


def test_own_networks_get_a_side_or_both(tmp_path, monkeypatch):
    (tmp_path / "own_sides.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    model = model_of("dcgan").model_copy(update={"generator": "own_sides:G"})
    for resolution, shape in ((32, (32, 32)), ((48, 64), (48, 64))):
        check_models(model, channels=4, resolution=resolution)
        G = build_generator(model, channels=4, resolution=resolution)
        assert G(torch.zeros(2, 5)).shape == (2, 4, *shape)
    square = model.model_copy(update={"generator": "own_sides:Square"})
    check_models(square, channels=4, resolution=32)
    assert "resolution=(48, 64)" in refused("dcgan", 48, 64, generator="own_sides:Square")
