"""Every family at every resolution and conditioning: shapes, ranges, gradients everywhere, the same weights from the
same seed.
"""

import subprocess
import sys
from itertools import product

import pytest
import torch
from torch import nn

from distgan.config import ConfigError, LossConfig, ModelConfig
from distgan.gan.step import d_step_loss, frozen, g_step_loss, has_batch_statistics
from distgan.models import allowed_resolutions, build_discriminator, build_generator, check_models, layers
from distgan.models.resnet import stage_widths
from distgan.registry import NETWORKS as MODELS

SIZES = {name: [s for s in allowed_resolutions(name) or (4, 17, 28) if s <= 64] for name in MODELS}
CONDITIONING = ["none", "projection", "auxiliary"]
NORMS = ["batch", "none"]
SIZE_3 = {"channels": 3, "resolution": 32, "n_classes": 3}
NORMLESS = {"r3gan", "style"}
"""Families in which g_norm and d_norm mean nothing."""
CASES = [
    (name, resolution, conditioning, g_norm, d_norm)
    for name in MODELS
    for resolution, conditioning in product(SIZES[name], CONDITIONING)
    for g_norm, d_norm in (
        [("none", "none")] if name in NORMLESS else [("batch", "batch"), ("batch", "spectral"), ("none", "none")]
    )
]


def classic_model(**changes):
    """Networks as in the DCGAN paper, batch norm in both and no labels, but for what a test changes."""
    classic = {
        "latent_dim": 100,
        "g_width": 64,
        "d_width": 64,
        "g_norm": "batch",
        "d_norm": "batch",
        "conditioning": "none",
    }
    return ModelConfig(**{**classic, **changes})


def build(model, **size):
    return build_generator(model, **size), build_discriminator(model, **size)


@pytest.mark.parametrize(("name", "resolution", "conditioning", "g_norm", "d_norm"), CASES)
def test_shapes_and_gradients(name, resolution, conditioning, g_norm, d_norm):
    torch.manual_seed(0)
    n, classes = 4, 3
    model = ModelConfig(
        name=name, conditioning=conditioning, g_norm=g_norm, d_norm=d_norm, latent_dim=5, g_width=4, d_width=4
    )
    size = {"channels": 2, "resolution": resolution, "n_classes": classes}
    G, D = build(model, **size)
    c = torch.arange(n) % classes if conditioning != "none" else None

    def logits(x):
        output = D(x, c)
        if conditioning != "auxiliary":
            assert output.shape == (n,)
            return output.sum()
        assert output.logits.shape == (n,)
        assert output.class_logits.shape == (n, classes)
        return output.logits.sum() + output.class_logits.square().sum()

    x = G(torch.randn(n, 5), c)
    assert x.shape == (n, 2, resolution, resolution)
    assert float(x.abs().max()) <= 1
    assert 0.02 < float(x.std()) < 0.95  # neither dead nor saturated at the start
    features = D.features(x)
    assert features.ndim == 2
    assert len(features) == n
    assert has_batch_statistics(D) == (d_norm == "batch")
    assert has_batch_statistics(G) == (g_norm == "batch")

    # Layers that start at 0 hide those in front of them until they have moved: look after a first step.
    optimizer = torch.optim.Adam([*G.parameters(), *D.parameters()], 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        logits(G(torch.randn(n, 5), c)).square().backward()
        optimizer.step()
    for network in (G, D):
        for parameter_name, p in network.named_parameters():
            assert p.grad is not None, parameter_name
            assert torch.isfinite(p.grad).all()
            assert float(p.grad.abs().sum()) > 0, parameter_name


@pytest.mark.parametrize("name", ["resnet", "r3gan", "style"])
@pytest.mark.parametrize("resolution", [128, 256])
@pytest.mark.parametrize("norm", NORMS)
def test_large_images(name, resolution, norm):
    model = classic_model(name=name, latent_dim=5, g_width=2, d_width=2, g_norm=norm, d_norm=norm)
    G, D = build(model, channels=3, resolution=resolution)
    x = G(torch.randn(2, 5))
    assert x.shape == (2, 3, resolution, resolution)
    assert D(x).shape == (2,)


@pytest.mark.parametrize("name", ["resnet", "r3gan"])
@pytest.mark.parametrize("resolution", [512, 1024])
def test_the_largest_images_have_networks_of_sensible_widths(name, resolution):
    with torch.device("meta"):  # sizes without numbers
        G, D = build(classic_model(name=name, latent_dim=64, g_width=32, d_width=32), channels=3, resolution=resolution)
        assert G(torch.zeros(2, 64)).shape == (2, 3, resolution, resolution)
        assert D(torch.zeros(2, 3, resolution, resolution)).shape == (2,)
    widths = [512, 512, 512, 512, 512, 256, 128, 64, 32]  # StyleGAN2's at 1024 pixels
    assert stage_widths(resolution, 32) == widths[-(resolution // 4).bit_length() :]
    assert G.output.in_channels == 32
    assert sum(p.numel() for p in (*G.parameters(), *D.parameters())) < 100e6


@pytest.mark.parametrize("name", ["resnet", "r3gan"])
def test_a_step_at_512_pixels(name):
    """Both players learn, with the penalties' second derivatives, from the first step on."""
    model = ModelConfig(name=name, latent_dim=5, g_width=1, d_width=1, g_norm="none", d_norm="none")
    G, D = build(model, channels=3, resolution=512)
    x, z = torch.rand(2, 3, 512, 512) * 2 - 1, torch.randn(2, 5)
    loss = LossConfig()
    d_step_loss(G, D, x, None, z, None, loss)[0].backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in D.parameters())
    with frozen(D):
        g_step_loss(G, D, x, None, z, None, loss)[0].backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in G.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("conditioning", ["projection", "auxiliary"])
def test_the_class_matters(name, conditioning):
    torch.manual_seed(0)
    model = ModelConfig(
        name=name, conditioning=conditioning, g_norm="none", d_norm="none", latent_dim=5, g_width=4, d_width=4
    )
    G, D = build(model, channels=1, resolution=16, n_classes=3)
    z = torch.randn(2, 5)
    assert not torch.allclose(G(z, torch.tensor([0, 0])), G(z, torch.tensor([1, 1])))
    if conditioning == "projection":
        x = torch.randn(2, 1, 16, 16)
        assert not torch.allclose(D(x, torch.tensor([0, 0])), D(x, torch.tensor([1, 1])))


def test_conditional_batch_norm_learns_the_class():
    model = classic_model(conditioning="projection", latent_dim=5, g_width=4)
    G = build_generator(model, channels=1, resolution=16, n_classes=3)
    z, c = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    G(z, c)[c == 1].sum().backward()
    scale = G.norms[0].scale.weight
    assert float(scale.grad[1].abs().sum()) > 0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm", NORMS)
def test_weights_follow_from_the_seed_alone(name, norm):
    model = classic_model(name=name, latent_dim=5, g_width=4, d_width=4, g_norm=norm, d_norm=norm)
    size = {"channels": 1, "resolution": 16}
    torch.manual_seed(5)
    first, state = build(model, **size, seed=7), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())  # torch's own generator was not moved
    torch.rand(3)
    second, other = build(model, **size, seed=7), build(model, **size, seed=8)
    for a, b, c in zip(first, second, other, strict=True):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
        assert not all(torch.equal(v, c.state_dict()[k]) for k, v in a.state_dict().items())


def test_documented_widths():
    model = classic_model(name="mlp", latent_dim=100, g_width=128, d_width=128, g_norm="none", d_norm="none")
    G, D = build(model, channels=1, resolution=28)
    assert [tuple(p.shape) for p in D.parameters() if p.ndim == 2] == [(256, 784), (128, 256), (1, 128)]
    assert [tuple(p.shape) for p in G.parameters() if p.ndim == 2] == [(128, 100), (256, 128), (512, 256), (784, 512)]
    G, D = build(classic_model(g_width=8, d_width=8), channels=3, resolution=64)
    assert [u.weight.shape[0] for u in G.ups] == [64, 32, 16, 8]
    assert [d.weight.shape[0] for d in [D.first, *D.downs]] == [8, 16, 32, 64]


def test_spectral_norm_holds_and_rests_in_eval():
    D = build_discriminator(classic_model(d_norm="spectral", d_width=4), channels=1, resolution=16)
    x = torch.randn(2, 1, 16, 16)
    for _ in range(50):
        D(x)
    D.eval()
    for layer in [D.first, *D.downs, D.head.logit]:
        assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1, abs=0.02)
    before = {k: v.clone() for k, v in D.state_dict().items()}
    D(x)
    assert all(torch.equal(v, before[k]) for k, v in D.state_dict().items())


def test_r3gan_starts_as_its_skips_and_resamples_evenly():
    from distgan.models.r3gan import Block, Resample

    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(Block(8, 6)(x), x)
    flat = torch.full((1, 8, 6, 6), 3.0)
    up, down = Resample(8, 8, up=True)(flat), Resample(8, 8, up=False)(flat)
    assert up.shape == (1, 8, 12, 12)
    assert down.shape == (1, 8, 3, 3)
    torch.testing.assert_close(up[..., :-1, :-1], flat.new_full((1, 8, 11, 11), 3.0))
    torch.testing.assert_close(down[..., 1:, 1:], flat.new_full((1, 8, 2, 2), 3.0))


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def refused(model, channels=1, resolution=28, n_classes=0):
    with pytest.raises(ConfigError) as error:
        check_models(classic_model(**model), channels=channels, resolution=resolution, n_classes=n_classes)
    return str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_good_configs_pass(name):
    d_norm = "batch" if "batch" in MODELS[name].d_norms else "none"
    model = classic_model(name=name, d_norm=d_norm, conditioning="projection")
    check_models(model, channels=3, resolution=32, n_classes=10)


def test_resolutions_are_told_with_the_nearest_and_the_able():
    text = refused({"name": "r3gan"})
    assert "data.resolution = 28" in text
    assert "16, 32, 64, 128, 256, 512, 1024" in text
    assert "set data.resolution to 32" in text
    assert "dcgan or mlp or style" in text
    assert "set data.resolution to 64" in refused({}, resolution=48)  # the larger of two equally near


def test_conditioning_needs_labels():
    assert "model.conditioning = 'projection'" in refused({"conditioning": "projection"})
    assert "one class" in refused({"conditioning": "auxiliary"}, n_classes=1)


@pytest.mark.parametrize(("name", "norm"), [("r3gan", "spectral"), ("style", "spectral"), ("style", "batch")])
def test_norms_that_a_family_has_not_are_refused(name, norm):
    assert f"model.d_norm = {norm!r}" in refused({"name": name, "d_norm": norm}, resolution=32)


def test_family_arguments():
    model = classic_model(name="r3gan", g_width=4, g_args={"blocks": 1}, d_args={"blocks": 1}, d_width=4)
    check_models(model, channels=1, resolution=16)
    assert len(build_generator(model, channels=1, resolution=16).body) == 5
    assert "model.g_args" in refused({"g_args": {"colour": 3}})


OWN = """
import torch
from torch import nn

class G(nn.Module):
    def __init__(self, latent_dim, channels, resolution, n_classes, gain=1.0, side=None):
        super().__init__()
        self.shape, self.gain = (channels, side or resolution, side or resolution), gain
        self.layer = nn.Linear(latent_dim + n_classes, channels * self.shape[1] ** 2)
        self.n_classes = n_classes
    def forward(self, z, c=None):
        if self.n_classes:
            z = torch.cat([z, nn.functional.one_hot(c, self.n_classes).to(z)], 1)
        return self.layer(z).tanh().view(-1, *self.shape) * self.gain

class D(nn.Module):
    def __init__(self, channels, resolution, n_classes, column=False):
        super().__init__()
        self.layer, self.column = nn.Linear(channels * resolution**2, 1), column
    def forward(self, x, c=None):
        h = self.layer(x.flatten(1))
        return h if self.column else h[:, 0]

class Broken(D):
    def forward(self, x, c=None):
        return self.layer(x)

class NotANetwork:
    def __init__(self, **kwargs):
        pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.chdir(tmp_path)  # the working folder is enough, as for `python train.py`
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield
    for name in ("own_networks", "own_broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("conditioning", ["projection", "auto"])
def test_own_classes(conditioning):
    own = {"generator": "own_networks:G", "discriminator": "own_networks:D", "g_args": {"gain": 0.5}}
    model = classic_model(**own, conditioning=conditioning)
    check_models(model, channels=1, resolution=20, n_classes=4)
    G, D = build(model, channels=1, resolution=20, n_classes=4)
    x = G(torch.randn(2, model.latent_dim), torch.tensor([0, 1]))
    assert float(x.abs().max()) <= 0.5
    assert D(x).shape == (2,)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("conditioning", ["none", "auto"])
def test_an_own_class_beside_one_of_the_family(conditioning):
    mixed = classic_model(generator="own_networks:G", latent_dim=8, conditioning=conditioning)
    check_models(mixed, channels=1, resolution=28)
    assert isinstance(build_discriminator(mixed, channels=1, resolution=28), nn.Module)
    check_models(mixed, channels=1, resolution=28, n_classes=4)
    G, _ = build(mixed, channels=1, resolution=28, n_classes=4)
    assert G.n_classes == (4 if conditioning == "auto" else 0)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            {"generator": "own_networks:G", "g_args": {"side": 14}},
            ["model.generator", "(3, 1, 14, 14)", "(3, 1, 28, 28)"],
        ),
        ({"generator": "own_networks:G", "g_args": {"gain": 5.0}}, ["model.generator", "[-1, 1]", "tanh"]),
        ({"generator": "own_networks:G", "g_args": {"speed": 1}}, ["model.generator", "speed", "model.g_args"]),
        ({"generator": "own_networks:H"}, ["has no H", "it has G, D, Broken"]),
        ({"generator": "own_nowhere:G"}, ["cannot import own_nowhere"]),
        ({"generator": "own_broken:G"}, ["cannot import own_broken", "no_such_module_anywhere"]),
        ({"generator": "own_networks:NotANetwork"}, ["NotANetwork", "torch.nn.Module"]),
        ({"discriminator": "own_networks:D", "d_args": {"column": True}}, ["model.discriminator", "(3, 1)", "(3,)"]),
        ({"discriminator": "own_networks:Broken"}, ["model.discriminator", "RuntimeError", "D(x (N, *shape), c)"]),
        (
            {"discriminator": "own_networks:D", "conditioning": "auxiliary"},
            ["auxiliary", "tuple", "class logits (N, 4)"],
        ),
    ],
)
def test_own_classes_are_checked(model, words):
    text = refused(model, n_classes=4)
    assert all(word in text for word in words), text


def test_limits_are_known_without_torch():
    code = (
        "import sys; from distgan.models import allowed_resolutions, check_family; from distgan.config import "
        "ModelConfig\nassert allowed_resolutions('dcgan')[1] == 28 and allowed_resolutions('mlp') is "
        "None\ncheck_family(ModelConfig(), resolution=28, n_classes=0)\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["resnet", "r3gan", "style"])
def test_widths_can_be_named_one_by_one(name):
    given = {"name": name, "g_norm": "none", "d_norm": "none"}
    given |= {"g_args": {"widths": [24, 16, 40, 8]}, "d_args": {"widths": [12, 12, 12, 20]}}
    model, size = classic_model(**given), {"channels": 1, "resolution": 32}
    check_models(model, **size)
    G, D = build(model, **size)
    assert len(next(p for n, p in G.named_parameters() if n in ("output.weight", "images.3.weight"))[0]) == 8
    assert D.head.logit.in_features == 12
    for wrong in ([24, 16, 40], [24, 16, 40, 0], [24, 16, 40, 8.0]):
        told = refused(given | {"g_args": {"widths": wrong}}, resolution=32)
        assert "widths must be 4 whole numbers >= 1, one for each side (4, 8, 16, 32)" in told


def test_r3gan_computes_in_bf16_between_ends_in_float32():
    torch.manual_seed(0)
    G, D = build(classic_model(name="r3gan", latent_dim=8, g_width=8, d_width=8, conditioning="projection"), **SIZE_3)
    for block in (m for m in (*G.modules(), *D.modules()) if hasattr(m, "shrink")):
        nn.init.normal_(block.shrink.weight, std=0.1)  # blocks that do something
    z, c = torch.randn(6, 8), torch.arange(6) % 3
    seen = {}

    def watch(name, module):
        module.register_forward_hook(
            lambda _, inputs, output: seen.__setitem__(name, (inputs[0].dtype, output.dtype, output.shape[-1]))
        )

    for name, module in [("project", G.project), ("output", G.output), ("from image", D.body[0]), ("head", D.head)]:
        watch(name, module)
    for player, net in (("G", G), ("D", D)):
        for i, layer in enumerate(net.body):
            watch((player, i), getattr(layer, "mix", None) or getattr(layer, "conv", layer))

    def both():
        x = G(z, c)
        return x, D(x, c)

    full_x, full_logits = both()
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        x, logits = both()
    assert x.dtype == logits.dtype == torch.float32
    for name in ("project", "output", "from image", "head"):
        assert seen[name][:2] == (torch.float32, torch.float32), name
    inner = {key: found for key, found in seen.items() if isinstance(key, tuple) and key != ("D", 0)}
    for (player, i), (_, output, side) in inner.items():
        lowest = i < G.first if player == "G" else i >= D.last
        assert output == (torch.float32 if lowest else torch.bfloat16), (player, i)
        assert not lowest or side == 4
    assert {output for _, output, _ in inner.values()} == {torch.float32, torch.bfloat16}
    assert 0 < float((x - full_x).detach().abs().max()) < 0.1
    torch.testing.assert_close(logits, full_logits, atol=0.05, rtol=0.05)

    # R1 through it: the penalty's own gradient is that of float32, up to bf16's rounding
    def penalty_gradient(autocast):
        image = torch.linspace(-1, 1, 6 * 3 * 32 * 32).view(6, 3, 32, 32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = D(image, c)
        (gradient,) = torch.autograd.grad(out.sum(), image, create_graph=True)
        assert gradient.dtype == torch.float32
        return torch.autograd.grad(gradient.square().sum(), [p for p in D.parameters() if p.ndim == 4])

    exact, rounded = penalty_gradient(False), penalty_gradient(True)
    flat = [torch.cat([g.flatten().float() for g in gs]) for gs in (exact, rounded)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.99


@pytest.mark.parametrize("bias", [True, False])
def test_layers_for_grey_images_are_the_plain_layers(bias):
    """Values, gradients and gradients of gradients of the fast forms on CPUs."""
    torch.manual_seed(0)
    for grey, plain, shape in (
        (layers.GreyConv2d(1, 6, 4, 2, 1, bias=bias), nn.Conv2d(1, 6, 4, 2, 1, bias=bias), (3, 1, 12, 12)),
        (layers.GreyConv2d(1, 6, 3, 1, 1, bias=bias), nn.Conv2d(1, 6, 3, 1, 1, bias=bias), (3, 1, 5, 8)),
        (
            layers.GreyConvTranspose2d(6, 1, 4, 2, 1, bias=bias),
            nn.ConvTranspose2d(6, 1, 4, 2, 1, bias=bias),
            (3, 6, 7, 7),
        ),
    ):
        plain.load_state_dict(grey.state_dict())
        x, found = torch.randn(shape), []
        for layer in (grey, plain):
            seen = x.clone().requires_grad_()
            y = layer(seen)
            (g,) = torch.autograd.grad(y.square().sum(), seen, create_graph=True)
            found.append([y, g, *torch.autograd.grad(g.square().sum(), layer.weight)])
            with torch.no_grad():
                found[-1].append(layer(x))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-5)


def test_layers_for_grey_images_train_after_they_have_sampled():
    layers._places.cache_clear()
    layer = layers.GreyConvTranspose2d(6, 1, 4, 2, 1)
    with torch.inference_mode():
        layer(torch.zeros(2, 6, 7, 7))
    layer(torch.zeros(2, 6, 7, 7)).sum().backward()
    assert float(layer.bias.grad) == 2 * 14 * 14


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("norm", ["none", "spectral"])
@pytest.mark.parametrize(
    ("conditioning", "n_classes"), [("none", 0), ("projection", 3), ("projection", layers.FEW + 1), ("auxiliary", 3)]
)
def test_the_head_is_its_formula(conditioning, n_classes, norm, layout):
    """On feature maps of either layout, in float32 whatever autocast says; values, gradients, and those of
    gradients.
    """
    torch.manual_seed(0)
    head = layers.Head(2 * 9, n_classes, conditioning, norm, layers.he_init).eval()
    maps = torch.randn(5, 2, 3, 3).contiguous(memory_format=layout).requires_grad_()
    c = torch.arange(5) * 7 % n_classes if n_classes else None
    h = maps.flatten(1)
    logits = h @ head.logit.weight[0] + head.logit.bias
    if conditioning == "projection":
        logits = logits + (h * head.embed.weight[c]).sum(1)
    with torch.autocast("cpu", torch.bfloat16):
        output = head(maps, c)
    found = output.logits if conditioning == "auxiliary" else output
    torch.testing.assert_close(found, logits)
    if conditioning == "auxiliary":
        torch.testing.assert_close(output.class_logits, h @ head.classify.weight.t() + head.classify.bias)
    weights = list(head.parameters())

    def penalty(logits):
        (g,) = torch.autograd.grad((logits**3).sum(), maps, create_graph=True)
        return torch.autograd.grad(
            g.square().sum() + logits.sum(), [*weights, maps], retain_graph=True, allow_unused=True
        )

    for a, b in zip(penalty(found), penalty(logits), strict=True):
        if b is not None:  # no loss is on the classes here, which then have none or zeros
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_head_with_classes_asks_for_them():
    head = layers.Head(4, 3, "projection", "none", layers.he_init)
    with pytest.raises(ValueError, match="'projection' needs classes"):
        head(torch.zeros(2, 4), None)


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_spectral_norm_iterates_once_a_pass(name, channels, monkeypatch):
    """Each look at such a weight is an iteration: a second one in a pass moves D without anyone's asking, and costs
    time.
    """
    kind, asked = nn.utils.parametrizations._SpectralNorm, []
    iterate = kind._power_method
    model = classic_model(name=name, d_width=4, d_norm="spectral", conditioning="projection")
    D = build_discriminator(model, channels=channels, resolution=32, n_classes=3)
    monkeypatch.setattr(kind, "_power_method", lambda self, *a: (asked.append(self), iterate(self, *a))[1])
    D(torch.zeros(2, channels, 32, 32, requires_grad=True), torch.arange(2))
    normed = [m for m in D.modules() if isinstance(m, kind)]
    assert sorted(map(id, asked)) == sorted(map(id, normed))
    assert len(normed) > 2
