"""Counting modes of Stacked MNIST: the judge on real and on collapsed images, the course of a run, and the whole
command, small.
"""

import json
import math
import sys

import numpy as np
import pytest
import torch
from benchmarks import stacked

from distgan.config import load_config


@pytest.fixture(scope="module")
def judge(caches):
    patch = pytest.MonkeyPatch()
    patch.setenv("DISTGAN_CACHE", str(caches / "decoded"))
    patch.setenv("DISTGAN_DATA", str(caches / "known"))
    yield stacked.Judge()
    patch.undo()


def test_the_truth_is_what_the_data_is_drawn_from(judge):
    assert judge.truth.shape == (1000,)
    assert float(judge.truth.sum()) == pytest.approx(1)
    assert float((judge.truth * 1000 - 1).abs().max()) < 0.05  # the packaged digits have as many of each class


def test_real_images_have_the_expected_kl_of_so_many_draws(judge):
    found = judge.count_real(6000)
    assert found["samples"] == 6000
    assert found["modes"] > 980
    assert found["kl"] == pytest.approx(999 / (2 * 6000), abs=0.03)


def test_missing_modes_and_a_tilt_are_seen(judge):
    labels = np.asarray(judge.real.labels[:20_000])
    few = judge.real.samples[np.flatnonzero(labels % 10 < 5)[:3000]]  # half of the last digit's classes are never shown
    found = judge.count(torch.from_numpy(np.array(few)).split(500))
    assert 490 <= found["modes"] <= 560  # some are misread
    assert found["kl"] == pytest.approx(math.log(2) + 500 / (2 * 3000), abs=0.1)
    one = judge.count([torch.from_numpy(np.array(judge.real.samples[:1])).expand(50, -1, -1, -1)])
    assert (one["modes"], one["kl"]) == (1, pytest.approx(math.log(1000), abs=0.1))


def test_the_course_counts_training_time_alone():
    lines = [
        {"nimg": 1000, "kimg": 1.0, "time": 5.0, "images_per_s": 100.0},
        {"nimg": 1000, "kimg": 1.0, "time": 5.0, "event": "a word"},
        {
            "nimg": 4000,
            "kimg": 4.0,
            "time": 99.0,
            "images_per_s": 50.0,
            "modes": 7.0,
            "class_kl": 1.5,
            "fid": 9.0,
            "samples": 500.0,
        },
    ]
    found = stacked._course(lines)
    assert found["minutes"] == pytest.approx((10 + 60) / 60)
    assert found["trained_kimg"] == 4
    assert found["said"] == ["a word"]
    (measured,) = found["course"]
    assert measured == {
        "minutes": pytest.approx(70 / 60),
        "kimg": 4.0,
        "modes": 7.0,
        "class_kl": 1.5,
        "fid": 9.0,
        "samples": 500.0,
    }


def test_the_recipes_are_the_preset_with_one_thing_changed():
    base = load_config(stacked.PRESET)
    assert base.loss.name == "relativistic"
    assert base.loss.r1_gamma == base.loss.r2_gamma > 0
    gamma = base.loss.r2_gamma
    for name, loss, r2 in [
        ("rpgan-r1", "relativistic", 0),
        ("ns-r1r2", "non-saturating", gamma),
        ("ns-r1", "non-saturating", 0),
    ]:
        config = load_config(stacked.PRESET, stacked.RECIPES[name][1])
        assert (config.loss.name, config.loss.r1_gamma, config.loss.r2_gamma) == (loss, base.loss.r1_gamma, r2)
        assert config.model_copy(update={"loss": base.loss}) == base
    plain = load_config(stacked.PRESET, stacked.RECIPES["dcgan"][1])
    assert (plain.model.g_norm, plain.model.d_norm, plain.loss.name) == ("batch", "batch", "non-saturating")
    assert plain.loss.r1_gamma == plain.loss.r2_gamma == 0
    assert plain.model.g_width == base.model.g_width
    assert (plain.optim.g.lr, plain.optim.g.beta1, plain.optim.g.beta2) == (2e-4, 0.5, 0.999)


def test_the_command_trains_counts_and_writes(tmp_path, capfd, monkeypatch):
    import benchmark

    small = [
        "--model.g_width",
        "4",
        "--model.d_width",
        "4",
        "--metrics.samples",
        "100",
        "--data.limit",
        "500",
        "--log.grid",
        "4",
    ]
    words = [
        "stacked-mnist",
        "--kimg",
        "0.128",
        "--samples",
        "300",
        "--only",
        "preset",
        "ns-r1",
        "--storage",
        str(tmp_path / "runs"),
    ]
    words += ["--pictures", str(tmp_path / "pictures"), "--json", str(tmp_path / "found.json")]
    words += ["--", *small, "--metrics.every_kimg", "0.064"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    monkeypatch.setattr(stacked, "SAMPLES", 300)
    assert benchmark.main() == 0
    said = capfd.readouterr().out
    assert "non-saturating + R1" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["real"]["modes"] > 100
    for name in ("preset", "ns-r1"):
        one = found["found"][name]
        assert 1 <= one["modes"] <= 300
        assert one["kl"] > found["real"]["kl"]  # after four steps
        assert one["samples"] == 300
        assert one["trained_kimg"] == 0.128
        assert [(at["kimg"], at["samples"]) for at in one["course"]] == [(0.064, 100), (0.128, 300)]  # as typed
        assert (tmp_path / "pictures" / f"stacked-mnist-{name}.png").stat().st_size > 1000
