"""Defaults that follow the data, and give way to whatever a person says."""

import importlib
import subprocess
import sys

import pytest
import yaml

from distgan.config import DataConfig, LossConfig, ModelConfig, RunConfig, load_config
from distgan.kinds import with_recipe
from distgan.kinds.image.image_set import image_spec
from distgan.runs.prepare import prepare, read_run_config

SPEC = image_spec("anything", 1, 28)


@pytest.mark.parametrize(
    ("typed", "gammas"),
    [
        ({}, (0.1, 0.1)),
        ({"data.name": "mnist"}, (0.1, 0.1)),
        ({"data.limit": 500, "model.g_width": 8, "loss.penalty_every": 4}, (0.1, 0.1)),
        ({"loss.r1_gamma": 2}, (2, 0.1)),  # what is given holds
        ({"data.name": "./photos"}, (1, 1)),  # data that nobody has seen
        ({"data.name": "stacked-mnist"}, (1, 1)),
        ({"data.name": "fashion-mnist"}, (0.3, 0.3)),
        ({"loss.name": "hinge"}, (1, 1)),  # not what the recipe was measured with
        ({"model.name": "r3gan"}, (1, 1)),
        ({"model.d_norm": "batch"}, (1, 1)),
    ],
)
def test_the_penalties_follow_the_data_unless_they_are_given(typed, gammas):
    config = with_recipe(load_config(overrides=typed), SPEC)
    assert (config.loss.r1_gamma, config.loss.r2_gamma) == gammas
    # and a description that was resolved once stays as it is, whatever is changed in it
    resolved = config.model_dump(mode="json")
    again = with_recipe(load_config(base=resolved, overrides={"data.name": "mnist10k", "model.name": "dcgan"}), SPEC)
    assert (again.loss.r1_gamma, again.loss.r2_gamma) == gammas
    assert with_recipe(config, SPEC) == config


def test_sections_may_be_objects():
    def gamma(**sections):
        return with_recipe(RunConfig(**sections), SPEC).loss.r1_gamma

    assert gamma(data=DataConfig(name="icons.zip")) == 1
    assert gamma(model=ModelConfig(name="mlp")) == 1
    assert gamma(loss=LossConfig(r1_gamma=1)) == 1
    assert gamma(loss=LossConfig()) == gamma(data=DataConfig()) == 0.1


def test_settings_alone_know_no_recipe():
    assert load_config().loss.r1_gamma == load_config(overrides={"data.name": "mnist"}).loss.r1_gamma == 1


def test_a_run_starts_with_the_recipe_and_keeps_it(tmp_path):
    config = load_config(overrides={"storage": str(tmp_path), "name": "r", "engine": "local", "data.limit": 100})
    prepared = prepare(config)
    assert prepared.config.loss.r1_gamma == 0.1
    assert read_run_config(prepared.folder).loss.r2_gamma == 0.1
    given = prepare(load_config(overrides={"storage": str(tmp_path), "name": "g", "loss.r1_gamma": 1, "workers": 1}))
    assert (given.config.loss.r1_gamma, given.config.loss.r2_gamma) == (1, 0.1)


def test_distgan_config_prints_it_where_the_data_can_be_described():
    def printed(*words):
        run = subprocess.run([sys.executable, "-m", "distgan", "config", *words], capture_output=True, timeout=100)
        assert run.returncode == 0, run.stderr
        return yaml.safe_load(run.stdout)["loss"]["r1_gamma"]

    assert printed() == 0.1
    assert printed("--loss.r1-gamma", "2") == 2
    assert printed("--data.name", "./not/there") == 1


def test_pictures_in_colour_have_a_recipe_of_their_own(monkeypatch):
    colour = image_spec("photos", 3, 32)

    def made(**typed):
        config = with_recipe(load_config(overrides={"data.name": "./photos", **typed}), colour)
        return (config.loss.r1_gamma, config.loss.r2_gamma, config.model.g_width, config.model.d_width)

    here: list[str] = []
    monkeypatch.setattr(importlib.import_module("distgan.kinds.image.recipe"), "gpu_devices", lambda: here)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert made() == (0.3, 0.3, 16, 16)
    assert made(**{"loss.r1_gamma": 2, "model.d_width": 8}) == (2, 0.3, 16, 8)
    assert made(**{"model.name": "r3gan"}) == (1, 1, 32, 32)
    assert made(**{"data.name": "stacked-mnist"}) == (1, 1, 32, 32)
    assert made(**{"ray.address": "auto"}) == (0.3, 0.3, 32, 32)  # where there may be GPUs
    here.append("/dev/nvidia0")
    assert made() == (0.3, 0.3, 32, 32)
    assert made(**{"ray.gpus_per_worker": 0}) == (0.3, 0.3, 16, 16)
