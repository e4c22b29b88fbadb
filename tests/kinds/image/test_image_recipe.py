"""Defaults that follow the data, and give way to whatever a person says."""

import importlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

from distgan.config import ConfigError, DataConfig, LossConfig, ModelConfig, RunConfig, load_config
from distgan.kinds import open_samples, settled, with_recipe
from distgan.kinds.image.image_set import image_spec
from distgan.kinds.image.recipe import smaller, spread
from distgan.models.check import check_family
from distgan.runs.prepare import prepare

SPEC = replace(image_spec("anything", 1, 28), classes=("a", "b"), n=10_000)


@pytest.mark.parametrize(
    ("typed", "upsampling"),
    [
        ({}, "bilinear"),
        ({"data.name": "./photos"}, "bilinear"),
        ({"model.g_upsampling": "transposed"}, "transposed"),  # what is given holds
        ({"loss.name": "hinge"}, "transposed"),  # not what the recipe was measured with
        ({"model.name": "r3gan"}, "transposed"),
        ({"model.d_norm": "batch"}, "transposed"),
    ],
)
def test_the_recipe_follows_the_data_unless_something_is_given(typed, upsampling):
    config = with_recipe(load_config(overrides=typed), SPEC)
    assert config.model.g_upsampling == upsampling
    # and a description that was resolved once stays as it is, whatever is changed in it
    resolved = config.model_dump(mode="json")
    again = with_recipe(load_config(base=resolved, overrides={"data.name": "mnist10k", "model.name": "dcgan"}), SPEC)
    assert again.model.g_upsampling == upsampling
    assert with_recipe(config, SPEC) == config


def test_sections_may_be_objects():
    def upsampling(**sections):
        return with_recipe(RunConfig(**sections), SPEC).model.g_upsampling

    assert upsampling(model=ModelConfig(name="mlp")) == "transposed"
    assert upsampling(model=ModelConfig(g_upsampling="transposed")) == "transposed"
    assert upsampling(loss=LossConfig()) == upsampling(data=DataConfig(name="icons.zip")) == "bilinear"


def test_a_run_that_was_begun_with_another_recipe_keeps_it(tmp_path):
    """The same command, after an update that changed the recipe."""
    typed = {"storage": str(tmp_path), "name": "r", "engine": "local", "data.limit": 100}
    before = {**typed, "model.g_upsampling": "transposed", "loss.r1_gamma": 0.1, "loss.r2_gamma": 0.1}
    folder = prepare(load_config(overrides=before)).folder
    folder.write("checkpoints/000000000000/manifest.json", b"{}")
    prepared = prepare(load_config(overrides=typed))
    assert (prepared.state, prepared.config.model.g_upsampling, prepared.config.loss.r1_gamma) == (
        "resume",
        "transposed",
        0.1,
    )
    with pytest.raises(ConfigError, match=r"loss.r1_gamma = 2.0: run .* was started with 0.1"):
        prepare(load_config(overrides=typed | {"loss.r1_gamma": 2}))


def images_along(directions, n=600, side=8, scale=20):
    """Random images, uint8 (n, 1, side, side), that differ along so many directions, equally far along each."""
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.normal(size=(side * side, directions)))[0]
    flat = 128 + scale * draw.normal(size=(n, directions)) @ basis.T
    return flat.round().clip(0, 255).astype(np.uint8).reshape(n, 1, side, side)


@pytest.mark.parametrize(("directions", "scale"), [(1, 40), (4, 40), (16, 40), (4, 80)])
def test_the_spread_is_the_variance_along_the_main_directions(directions, scale):
    images = images_along(directions, scale=scale)
    x = images.reshape(len(images), -1) / 127.5 - 1
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert spread(images) == pytest.approx(float(np.square(values).sum() / values.sum()), rel=0.1)
    assert spread(images) == pytest.approx((scale / 127.5) ** 2, rel=0.2)


def test_the_spread_grows_with_the_pixels_and_is_0_without_any():
    small = images_along(4, n=200, side=64, scale=600)
    large = small.repeat(3, 2).repeat(3, 3)
    assert spread(large) == pytest.approx(9 * spread(small), rel=1e-3)
    assert spread(np.full((9, 3, 8, 8), 7, np.uint8)) == spread(small[:1]) == 0.0
    assert smaller(large)[0].shape == (200, 1, 64, 64)


@pytest.mark.parametrize(("name", "low", "high"), [("mnist10k", 0.05, 0.1)])
def test_digits_want_small_penalties(name, low, high):
    config = load_config(overrides={"data.name": name})
    gammas = settled(config, open_samples(config.data))[0].loss.gammas
    assert low < gammas[0] == gammas[1] < high


def test_distgan_config_prints_it_where_the_data_can_be_described():
    def printed(*words):
        run = subprocess.run([sys.executable, "-m", "distgan", "config", *words], capture_output=True, timeout=100)
        assert run.returncode == 0, run.stderr
        return yaml.safe_load(run.stdout)["model"]["g_upsampling"]

    assert printed() == "bilinear"
    assert printed("--model.g-upsampling", "transposed") == "transposed"
    assert printed("--data.name", "./not/there") == "transposed"


def test_pictures_in_colour_have_a_recipe_of_their_own(monkeypatch):
    colour = image_spec("photos", 3, 32)

    def made(**typed):
        config = with_recipe(load_config(overrides={"data.name": "./photos", **typed}), colour)
        return config.model.g_width, config.model.d_width

    here: list[str] = []
    monkeypatch.setattr(importlib.import_module("distgan.kinds.image.recipe"), "gpu_devices", lambda: here)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert made() == (16, 16)
    assert made(**{"model.d_width": 8}) == (16, 8)
    assert made(**{"model.name": "r3gan"}) == (32, 32)
    assert made(**{"data.name": "stacked-mnist"}) == (32, 32)
    assert made(**{"ray.address": "auto"}) == (32, 32)  # where there may be GPUs
    here.append("/dev/nvidia0")
    assert made() == (32, 32)
    assert made(**{"ray.gpus_per_worker": 0}) == (16, 16)


@pytest.mark.parametrize(
    ("n_classes", "n", "typed", "found"),
    [
        (9, 5000, {}, ("bilinear", 6e-3)),
        (0, 5000, {}, ("transposed", 6e-3)),  # without labels
        (9, 5000, {"data.labels": False}, ("transposed", 6e-3)),
        (9, 5000, {"model.conditioning": "none"}, ("transposed", 6e-3)),
        (9, None, {}, ("bilinear", 6e-3)),
        (9, 90, {}, ("bilinear", 3e-3)),  # few images
        (0, 90, {}, ("bilinear", 3e-3)),
        (0, 90, {"optim.g.lr": 1e-3, "model.g_upsampling": "transposed"}, ("transposed", 1e-3)),  # given
        (9, 90, {"model.name": "r3gan"}, ("transposed", 6e-3)),
    ],
)
def test_upsampling_and_rate_follow_labels_and_numbers(n_classes, n, typed, found):
    spec = replace(image_spec("photos", 3, 32), classes=tuple(map(str, range(n_classes))), n=n)
    config = with_recipe(load_config(overrides={"data.name": "./photos", **typed}), spec)
    assert (config.model.g_upsampling, config.optim.g.lr) == found


@pytest.mark.parametrize("side", [(128, 128), (256, 256), (96, 128)])
def test_large_images_have_networks_that_do_not_collapse(side):
    spec = replace(SPEC, name="photos", shape=(3, *side), classes=())
    config = with_recipe(load_config(overrides={"data.name": "./photos"}), spec)
    assert config.model.name == "r3gan"
    assert config.optim.g.lr == config.optim.d.lr == 2e-4
    check_family(config.model, resolution=side[0] if side[0] == side[1] else side, n_classes=0)
    given = with_recipe(load_config(overrides={"data.name": "./photos", "model.name": "dcgan"}), spec)
    with pytest.raises(ConfigError, match=r"data.resolution = .*model.name = 'dcgan' makes images .*r3gan"):
        check_family(given.model, resolution=side[0] if side[0] == side[1] else side, n_classes=0)
