"""What a network begins with when it is fine-tuned: by what it then computes, beside what the old one did."""

import pytest
import torch
from torch import nn

from distgan.config import ConfigError, ModelConfig, load_config
from distgan.models import build_discriminator, build_generator
from distgan.models.layers import Norm
from distgan.training.finetune import Source, first_state

NORMLESS = ("r3gan", "style")
FAMILIES = [
    (name, norm, d_norm)
    for name in ("dcgan", "resnet", "r3gan", "mlp", "style")
    for norm, d_norm in ([("none", "none")] if name in NORMLESS else [("none", "none"), ("batch", "spectral")])
]
CLASSES = ("cat", "dog", "fox")
GREY, COLOUR = {"channels": 1, "resolution": 16}, {"channels": 3, "resolution": 16}
z = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def networks(model, classes, shape, seed=1):
    size = {"n_classes": len(classes), **shape}
    G, D = build_generator(model, **size, seed=seed), build_discriminator(model, **size, seed=seed)
    generator = torch.Generator().manual_seed(2)
    for network in (G, D):  # layers that start at 0 would hide others
        for weight in network.state_dict().values():
            if weight.is_floating_point():
                weight.add_(0.3 * torch.rand(weight.shape, generator=generator) * weight.abs().mean().clamp(min=0.1))
    return G.eval(), D.eval()


def model_of(name, norm="none", d_norm="none", classes=CLASSES, **more):
    conditioning = "projection" if classes else "none"
    sizes = {"latent_dim": 6, "g_width": 4, "d_width": 4, "g_norm": norm, "d_norm": d_norm}
    return ModelConfig(name=name, **sizes, **{"conditioning": conditioning, **more})


def source_of(model, classes, shape, **changes):
    G, D = networks(model, classes, shape)
    averages = {10.0: {name: weight.clone() for name, weight in G.state_dict().items()}}
    weights = {"G": G.state_dict(), "averages": averages, "D": D.state_dict()}
    about = {"name": "old", "kimg": 7.0, "model": model, "kind": "image", "classes": classes, "arguments": shape}
    return Source(**{**about, **weights, **changes}), G, D


def tuned(source, model, classes, shape, **settings):
    """(G, D, its average, state, words) of a run that begins with the source's weights."""
    config = load_config(overrides={"finetune": "old", **settings}).model_copy(update={"model": model})
    state, words = first_state(config, classes, shape, source)
    G, D = networks(model, classes, shape, seed=3)
    average, _ = networks(model, classes, shape, seed=3)
    G.load_state_dict(state["G"])
    D.load_state_dict(state["D"])
    average.load_state_dict({name.partition("/")[2]: weight for name, weight in state["ema"].items()})
    return G, D, average, state, words


def reader(G):
    """The layer that reads z and the class."""
    return G.hidden[0] if hasattr(G, "hidden") else G.mapping.layers[0] if hasattr(G, "mapping") else G.project


def labels(k, classes=CLASSES):
    return torch.full((5,), k) if classes else None


@torch.no_grad()
def close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(("name", "norm", "d_norm"), FAMILIES)
@torch.no_grad()
def test_the_same_data_begins_as_the_source_ended(name, norm, d_norm):
    model = model_of(name, norm, d_norm)
    source, G_old, D_old = source_of(model, CLASSES, GREY)
    G, D, average, state, words = tuned(source, model, CLASSES, GREY)
    for network, old in ((G, G_old), (D, D_old), (average, G_old)):
        assert all(torch.equal(weight, old.state_dict()[name]) for name, weight in network.state_dict().items())
    assert (state["nimg"], state["g_opt"], state["d_opt"], state["data"], state["best"]) == (0, {}, {}, "", {})
    assert words == "fine-tuning from old at 7 kimg: 3 of 3 classes by name"


@pytest.mark.parametrize(("name", "norm", "d_norm"), FAMILIES)
@torch.no_grad()
def test_classes_are_known_by_name_and_new_ones_are_the_mean(name, norm, d_norm):
    model = model_of(name, norm, d_norm)
    source, G_old, D_old = source_of(model, CLASSES, GREY)
    new = ("ant", "fox", "cat")
    G, D, _, _, words = tuned(source, model, new, GREY)
    for k, old in ((1, 2), (2, 0)):
        assert close(G(z, labels(k)), G_old(z, labels(old)))
        x = torch.tanh(torch.randn(5, 1, 16, 16))
        if d_norm != "spectral":  # which scales all rows by the largest singular value of all together
            assert close(D(x, labels(k)), D_old(x, labels(old)))
    for network, old in ((G, G_old), (D, D_old)):
        rows = [(n, w) for n, w in network.state_dict().items() if "embed" in n or "scale" in n or "shift" in n]
        rows = [(n, w) for n, w in rows if w.ndim == 2]
        assert rows
        for weight, row in rows:
            assert close(row[0], old.state_dict()[weight].mean(0))
    assert words.endswith("2 of 3 classes by name (ant as the mean of its 3)")


@pytest.mark.parametrize(("name", "norm", "d_norm"), FAMILIES)
@torch.no_grad()
def test_dropped_labels_leave_the_mean_class(name, norm, d_norm):
    source, G_old, D_old = source_of(model_of(name, norm, d_norm), CLASSES, GREY)
    G, D, _, _, words = tuned(source, model_of(name, norm, d_norm, ()), (), GREY)
    for module in [*G_old.modules(), D_old]:
        for table in (m for m in module.children() if isinstance(m, nn.Embedding)):
            table.weight.copy_(table.weight.mean(0).expand_as(table.weight))
    if name not in NORMLESS:
        assert close(G(z), G_old(z, labels(1)))
    else:  # no bias that could take the mean class's part, or one of another rate
        assert close(reader(G).weight, reader(G_old).weight[:, :6])
    x = torch.tanh(torch.randn(5, 1, 16, 16))
    if d_norm != "spectral":
        mean = torch.stack([D_old(x, labels(k)) for k in range(3)]).mean(0)
        assert close(D(x), mean)
    assert words.endswith("labels dropped")


@pytest.mark.parametrize(("name", "norm", "d_norm"), FAMILIES)
def test_added_labels_change_nothing_at_first_and_can_be_learned(name, norm, d_norm):
    source, G_old, D_old = source_of(model_of(name, norm, d_norm, ()), (), GREY)
    G, D, _, _, words = tuned(source, model_of(name, norm, d_norm), CLASSES, GREY)
    x = torch.tanh(torch.randn(5, 1, 16, 16))
    for k in range(3):
        assert close(G(z, labels(k)), G_old(z))
        if d_norm != "spectral":
            assert close(D(x, labels(k)), D_old(x))
    G(z, torch.arange(5) % 3).square().sum().backward()
    D(x, torch.arange(5) % 3).square().sum().backward()
    if norm == "none":  # the class's half of the layer that reads it moves
        assert float(reader(G).weight.grad[:, 6:].abs().sum()) > 0
    else:
        assert all(float(m.scale.weight.grad.abs().sum()) > 0 for m in G.modules() if isinstance(m, Norm) and m.scale)
    assert all(torch.isfinite(p.grad).all() for p in D.parameters())
    assert float(next(p for n, p in D.named_parameters() if "embed" in n).grad.abs().sum()) > 0
    assert words.endswith("labels added")


@pytest.mark.parametrize(("name", "norm", "d_norm"), FAMILIES)
@torch.no_grad()
def test_grey_and_colour(name, norm, d_norm):
    model = model_of(name, norm, d_norm, ())
    source, G_old, D_old = source_of(model, (), GREY)
    G, D, _, _, words = tuned(source, model, (), COLOUR)
    assert close(G(z), G_old(z).expand(-1, 3, -1, -1))
    x = torch.tanh(torch.randn(5, 1, 16, 16))
    if d_norm != "spectral":
        assert close(D(x.expand(-1, 3, -1, -1)), D_old(x))
    assert words.endswith("channels 1 -> 3")

    source, G_old, D_old = source_of(model, (), COLOUR)
    G, D, *_ = tuned(source, model, (), GREY)
    made, before = torch.atanh(G(z).clamp(-0.99999, 0.99999)), torch.atanh(G_old(z).clamp(-0.99999, 0.99999))
    inside = before.abs().amax(1, keepdim=True) < 3
    assert float(inside.float().mean()) > 0.05
    assert torch.allclose(made[inside], before.mean(1, keepdim=True)[inside], atol=1e-3)
    if d_norm != "spectral":
        assert close(D(x), D_old(x.expand(-1, 3, -1, -1)))


@torch.no_grad()
def test_spectral_norms_fit_the_weights_that_were_changed():
    model = model_of("resnet", "batch", "spectral")
    source, _, _ = source_of(model, CLASSES, GREY)
    _, D, *_ = tuned(source, model, ("ant", "fox", "cat", "dog"), COLOUR)
    for layer in (D.head.embed, D.blocks[0].conv1, D.blocks[0].skip):
        assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["dcgan", "resnet", "r3gan", "style"])
@torch.no_grad()
def test_layers_are_matched_by_the_side_they_work_on(name):
    small, large = {"channels": 3, "resolution": 16}, {"channels": 3, "resolution": 64}
    given = model_of(name, classes=())
    source, G_old, D_old = source_of(given, (), small)
    more = 2  # twice the side twice
    own = {f"{p}_args": {"widths": [*n.widths, *[4] * more]} for p, n in (("g", G_old), ("d", D_old))}
    model = model_of(name, classes=(), **own)
    G, D, _, _, words = tuned(source, model, (), large)
    assert "resolution 16 -> 64" in words
    assert "of G and" in words
    # What G makes of noise up to the last side that both have, and what D makes of maps from there on
    maps = {}
    for key, network in (("old", G_old), ("new", G)):
        layers = {
            "dcgan": lambda n: n.ups[0],
            "resnet": lambda n: n.blocks[1],
            "r3gan": lambda n: n.body[5],
            "style": lambda n: n.convs[4],
        }
        layers[name](network).register_forward_hook(lambda m, i, o, key=key: maps.__setitem__(key, o))
        network(z)
    assert close(maps["old"], maps["new"])
    channels, side = {"dcgan": (-1, 8), "resnet": (1, 8), "r3gan": (-1, 16), "style": (-1, 16)}[name]
    h = torch.randn(2, D_old.widths[channels], side, side)
    tails = {
        "dcgan": (lambda n, i: n.downs[i](h), (0, 2)),
        "resnet": (lambda n, i: n.blocks[i:](h), (1, 3)),
        "r3gan": (lambda n, i: n.body[i:](h), (1, 7)),
        "style": (lambda n, i: n.blocks[i:](h), (0, 2)),
    }
    tail, (old, new) = tails[name]
    assert close(tail(D_old, old), tail(D, new))

    # and back again
    back, G_large, _ = source_of(model, (), large)
    G, D, _, _, words = tuned(back, given, (), small)
    assert "resolution 64 -> 16" in words
    assert close(reader(G).weight, reader(G_large).weight)


def test_only_what_fits_is_taken(monkeypatch):
    model = model_of("dcgan")
    source, *_ = source_of(model, CLASSES, GREY)
    for changes, text in (
        ({"g_width": 8}, r"model\.g_width: \d+ layers of G are of another width than in old \(the first, project"),
        ({"d_width": 2}, r"model\.d_width: \d+ layers of D"),
        ({"latent_dim": 8}, r"model\.latent_dim = 8: old has 6"),
        ({"d_norm": "spectral"}, r"model\.d_norm = 'spectral': old has 'none'"),
        ({"name": "resnet"}, r"model\.name = 'resnet': old has 'dcgan'\nfinetune = old: needs networks of the same"),
    ):
        with pytest.raises(ConfigError, match=text):
            tuned(source, model.model_copy(update=changes), CLASSES, GREY)
    with pytest.raises(ConfigError, match=r"data\.resolution: the layers of G that old has"):
        tuned(source, model.model_copy(update={"g_args": {"widths": [8, 4]}}), CLASSES, GREY | {"resolution": 28})
    own = model.model_copy(update={"generator": "distgan.models.dcgan:DCGANGenerator"})
    source, *_ = source_of(own.model_copy(update={"g_args": {"width": 4, "norm": "none"}}), CLASSES, GREY)
    same = own.model_copy(update={"g_args": {"width": 4, "norm": "none"}})
    assert tuned(source, same, CLASSES, GREY)[-1].endswith("3 of 3 classes by name")
    monkeypatch.delattr("distgan.models.dcgan.DCGANGenerator.places")  # as people's own networks, which have none
    with pytest.raises(ConfigError, match=r"DCGANGenerator is made for .*\(a method places\(\)"):
        tuned(source, same, CLASSES[:2], GREY)


@torch.no_grad()
def test_a_generator_alone_and_the_nearest_average():
    model = model_of("dcgan")
    source, G_old, _ = source_of(model, CLASSES, GREY, D=None)
    far = {name: weight + 1 for name, weight in G_old.state_dict().items()}
    source.averages[0.5] = far
    G, D, average, _, words = tuned(source, model, CLASSES, GREY, **{"training.ema_half_life_kimg": 0.4})
    assert close(G.ups[-1].weight, G_old.ups[-1].weight)
    assert close(average.ups[-1].weight, far["ups.1.weight"])
    fresh = build_discriminator(model, n_classes=3, **GREY, seed=0)
    assert all(torch.equal(weight, fresh.state_dict()[name]) for name, weight in D.state_dict().items())
    assert words.endswith("without a discriminator, which begins new, 3 of 3 classes by name")
    with pytest.raises(ConfigError, match="freeze_d = 1: old has no discriminator"):
        tuned(source, model, CLASSES, GREY, **{"training.freeze_d": 1})


@pytest.mark.parametrize(("name", "stages"), [("dcgan", 2), ("resnet", 3), ("r3gan", 3), ("mlp", 2), ("style", 4)])
def test_frozen_stages_must_be_there(name, stages):
    model = model_of(name)
    source, _, D_old = source_of(model, CLASSES, GREY)
    _, _, _, state, _ = tuned(source, model, CLASSES, GREY, **{"training.freeze_d": stages})
    assert all(torch.equal(w, state["D"][n]) for n, w in D_old.state_dict().items())
    with pytest.raises(ConfigError, match=rf"freeze_d = {stages + 1}: this discriminator has {stages} stages"):
        tuned(source, model, CLASSES, GREY, **{"training.freeze_d": stages + 1})
    if name in ("dcgan", "resnet"):
        G, D = networks(model, CLASSES, GREY)
        args = {f"{p}_args": {"widths": [*n.widths, 4]} for p, n in (("g", G), ("d", D))}
        grown = model.model_copy(update=args)
        with pytest.raises(ConfigError, match=r"freeze_d = 1: .* is not in old, and layers that begin new"):
            tuned(source, grown, CLASSES, GREY | {"resolution": 32}, **{"training.freeze_d": 1})
