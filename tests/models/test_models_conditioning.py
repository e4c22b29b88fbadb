"""conditioning = "auto": decided by the data's classes, once, and then the same networks as if it had been written
out.
"""

import pytest
import torch

from distgan.config import ConfigError, ModelConfig, RunConfig, dump_config, load_config
from distgan.models import build_discriminator, build_generator, check_models
from distgan.registry import NETWORKS as MODELS

EXPLICIT = ["none", "projection", "auxiliary"]
DECIDED = [(0, "none"), (1, "none"), (2, "projection"), (10, "projection")]  # one class tells nothing apart


def small_model(name, conditioning):
    return ModelConfig(
        name=name, conditioning=conditioning, latent_dim=5, g_width=4, d_width=4, g_norm="none", d_norm="none"
    )


def build(model, n_classes):
    size = {"channels": 1, "resolution": 16, "n_classes": n_classes, "seed": 3}
    return build_generator(model, **size), build_discriminator(model, **size)


@pytest.mark.parametrize(("n_classes", "decided"), DECIDED)
def test_auto_is_decided_by_the_number_of_classes(n_classes, decided):
    assert ModelConfig(conditioning="auto").conditioned_on(n_classes) == decided


@pytest.mark.parametrize("conditioning", EXPLICIT)
@pytest.mark.parametrize("n_classes", [0, 1, 10])
def test_what_was_asked_for_stays(conditioning, n_classes):
    assert ModelConfig(conditioning=conditioning).conditioned_on(n_classes) == conditioning
    config = RunConfig(model=ModelConfig(conditioning=conditioning))
    assert config.for_classes(n_classes) == config


@pytest.mark.parametrize(("n_classes", "decided"), DECIDED)
def test_a_run_is_decided_in_this_one_setting(n_classes, decided):
    config = load_config(
        overrides={
            "model.conditioning": "auto",
            "model.name": "resnet",
            "model.g_width": 8,
            "kimg": 7,
            "loss.r1_gamma": 2,
        }
    )
    settled = config.for_classes(n_classes)
    assert config.model.conditioning == "auto"  # not changed in place
    assert settled.model.conditioning == decided
    expected = config.model_dump()
    expected["model"]["conditioning"] = decided
    assert settled.model_dump() == expected


def test_a_decision_holds(tmp_path):
    settled = RunConfig(model=ModelConfig(conditioning="auto")).for_classes(10)
    assert settled.for_classes(0) == settled
    (tmp_path / "written.yaml").write_text(dump_config(settled))
    assert load_config(tmp_path / "written.yaml").model.conditioning == "projection"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("n_classes", "decided"), DECIDED)
def test_auto_builds_what_was_decided(name, n_classes, decided):
    asked, written = build(small_model(name, "auto"), n_classes), build(small_model(name, decided), n_classes)
    for a, b in zip(asked, written, strict=True):
        a, b = a.state_dict(), b.state_dict()
        assert list(a) == list(b)
        assert all(torch.equal(a[k], b[k]) for k in a)
    (G, D), (_, written_D) = asked, written
    c = torch.arange(4) % n_classes if decided == "projection" else None
    x = G(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), c)
    logits = D(x, c)
    assert logits.shape == (4,)
    assert torch.equal(logits, written_D(x, c))


@pytest.mark.parametrize("name", MODELS)
def test_with_auto_the_class_matters_where_there_are_classes(name):
    draw = torch.Generator().manual_seed(0)
    z, x = torch.randn(2, 5, generator=draw), torch.randn(2, 1, 16, 16, generator=draw)
    first, second = torch.tensor([0, 0]), torch.tensor([1, 1])
    G, D = build(small_model(name, "auto"), 3)
    assert not torch.allclose(G(z, first), G(z, second))
    assert not torch.allclose(D(x, first), D(x, second))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n_classes", [0, 1, 10])
def test_the_defaults_fit_data_with_and_without_classes(name, n_classes):
    assert ModelConfig().conditioning == "auto"
    check_models(ModelConfig(name=name), channels=3, resolution=32, n_classes=n_classes)


@pytest.mark.parametrize("n_classes", [0, 1])
def test_only_who_asks_for_labels_must_have_them(n_classes):
    check_models(small_model("dcgan", "auto"), channels=1, resolution=16, n_classes=n_classes)
    with pytest.raises(ConfigError, match=r"model\.conditioning = 'projection'"):
        check_models(small_model("dcgan", "projection"), channels=1, resolution=16, n_classes=n_classes)
