"""The linear probe: what a logistic regression can and cannot learn, which images are held out, and the command."""

import json

import numpy as np
import pytest
import torch
from tiny_run import TINY

from distgan.cli import main
from distgan.config import ConfigError, DataConfig, load_config
from distgan.kinds import open_samples
from distgan.kinds.image import KIND
from distgan.runs import linear_probe as probe
from distgan.runs.prepare import prepare
from distgan.training import loop
from distgan.training.context import Context
from distgan.training.holdout import HeldOut

CPU = torch.device("cpu")


def clusters(n, seed, features=6):
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=draw)
    x = torch.randn(n, features, generator=draw) * 0.3
    x[torch.arange(n), y] += 4
    return x * torch.tensor([1e3, 1.0, 1e-3, 1.0, 1.0, 1.0])[:features], y  # scales must not matter


def test_what_is_linear_is_found_and_what_is_random_is_not():
    before = torch.random.get_rng_state()
    (x, y), (x_test, y_test) = clusters(300, 0), clusters(300, 1)
    assert probe.linear_accuracy(x, y, x_test, y_test, 3) > 0.99
    noise = torch.randn(600, 6, generator=torch.Generator().manual_seed(2))
    assert 0.2 < probe.linear_accuracy(noise[:300], y, noise[300:], y_test, 3) < 0.47  # chance is 1/3
    dead = torch.cat([x, torch.full((300, 2), 7.0)], dim=1), torch.cat([x_test, torch.full((300, 2), 9.0)], dim=1)
    assert (
        probe.linear_accuracy(dead[0], y, dead[1], y_test, 3) > 0.99
    )  # a feature that never changed when it was fitted
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_strength_of_the_penalty_is_chosen_on_images_that_the_trial_was_not_fitted_on(monkeypatch):
    (x, y), (x_test, y_test) = clusters(150, 0), clusters(40, 1)
    fitted, judged = [], []

    def fit(x, y, classes, strength):
        fitted.append((len(x), strength))
        return strength

    def accuracy(strength, x, y):
        judged.append((strength, len(x)))
        return {1e-3: 0.5, 1e-2: 0.9}.get(strength, 0.1)

    monkeypatch.setattr(probe, "_fit", fit)
    monkeypatch.setattr(probe, "_accuracy", accuracy)
    assert probe.linear_accuracy(x, y, x_test, y_test, 3) == 0.9
    assert fitted == [*((135, strength) for strength in probe.STRENGTHS), (150, 1e-2)]
    assert judged == [*((strength, 15) for strength in probe.STRENGTHS), (1e-2, 40)]


def test_held_out_images_are_those_that_were_never_fitted_and_say_where_they_are_from(tmp_path):
    config = load_config(overrides=TINY)
    real = open_samples(config.data)
    fit, (images, held), where = probe._parts(real, KIND, config.data, config)
    assert images is real
    assert "D has seen" in where
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(256))
    assert len(held) == 51

    kept = load_config(overrides=TINY | {"model.conditioning": "auxiliary", "data.holdout": 0.25})
    fit, (_, held), where = probe._parts(real, KIND, kept.data, kept)
    assert torch.equal(held, HeldOut(kept, real, KIND).index)
    assert torch.equal(fit, HeldOut(kept, real, KIND).rest)
    assert "kept from the discriminator" in where


def test_a_test_split_comes_first(tmp_path, monkeypatch):
    config = load_config(overrides=TINY)
    real = open_samples(config.data)
    asked = []

    def opened(data):
        asked.append(data)
        return real

    monkeypatch.setattr(probe, "open_samples", opened)
    fit, (_, held), where = probe._parts(real, KIND, DataConfig(name="mnist", limit=256), config)
    assert (asked[0].split, asked[0].download, asked[0].limit) == ("test", False, None)
    assert len(fit) == len(held) == 256
    assert where == "mnist10k's test split"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, caches):
    """A run that has trained for a second, with a discriminator wide enough to say something."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DISTGAN_CACHE", str(caches / "decoded"))
    storage = tmp_path_factory.mktemp("probe")
    changes = {
        "model.conditioning": "projection",
        "model.d_width": 32,
        "model.d_norm": "none",
        "data.limit": 1000,
        "kimg": 2.048,
    }
    config = load_config(overrides=TINY | changes | {"storage": str(storage), "name": "probed"})
    loop.train(config, Context(CPU), prepare(config).folder)
    patch.undo()
    return storage


def test_the_command_tells_accuracy_and_what_it_is_of(trained, capsys):
    words = ["evaluate", "probed", "--storage", str(trained), "-n", "64", "--metrics", "fid", "--linear-probe"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.6 < found["linear_probe"] <= 1
    assert 0.4 < found["linear_probe_untrained"] < 1
    assert found["linear_probe"] != found["linear_probe_untrained"]
    assert (found["linear_probe_fitted_on"], found["linear_probe_held_out"], found["linear_probe_features"]) == (
        800,
        200,
        32,
    )
    assert main(words) == 0
    table = capsys.readouterr().out
    assert f"{found['linear_probe']:.5g}" in table
    assert "not fitted on, which D has seen" in table


def test_what_cannot_be_probed_is_told(trained, tmp_path, capsys):
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8))
    common = ["--metrics", "fid", "-n", "20", "--linear-probe", "--storage", str(trained)]
    assert main(["evaluate", str(images), "--against", "mnist10k", *common]) == 2
    assert "is no run, and only a run's checkpoint has a discriminator" in capsys.readouterr().err
    assert main(["evaluate", "probed", "--against", str(images), *common]) == 2
    assert "has no class labels; --against DATA names data that has" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="Linear has no method features"):
        probe._features(
            torch.nn.Linear(1, 1), open_samples(load_config(overrides=TINY).data), KIND, torch.arange(2), CPU
        )
