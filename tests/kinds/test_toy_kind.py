"""Another kind of sample, by import path: it trains, resumes, samples, previews and is measured, and not a line of the
package knows it.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import TINY

from distgan.cli import main
from distgan.config import ConfigError, DataConfig, load_config
from distgan.export.generator import load_generator
from distgan.kinds import describe, find_kind, get_kind, open_samples, with_recipe
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.decide import read_decisions

OWN = {
    **{name: value for name, value in TINY.items() if not name.startswith("loss.")},
    "data.kind": "signals:KIND",
    "data.name": "waves",
    "data.limit": 300,
    "model.generator": "signal_networks:G",
    "model.discriminator": "signal_networks:D",
    "model.conditioning": "projection",
    "loss.gp_lambda": 1,
    "metrics.names": "[fid, kid, precision-recall]",
    "log.tensorboard": True,
}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The folder of the toy kind is the working folder of whoever uses it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy"))


def typed(settings):
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def train(place, name, **changes):
    assert main(["train", *typed({**OWN, "storage": place, "name": name, **changes})]) == 0
    return Folder(place).child(name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of signals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "toy"))
        torch.set_num_threads(1)
        patch.setenv("DISTGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return train(tmp_path_factory.mktemp("runs"), "waves")


def test_it_trains_and_is_measured_in_its_own_features(run):
    lines = [json.loads(line) for line in run.read("metrics.jsonl").decode().splitlines()]
    measured = [line for line in lines if "fid" in line]
    assert len(measured) == 2
    assert all(np.isfinite(line[key]) for line in measured for key in ("fid", "kid", "precision", "recall"))
    assert measured[0]["real_samples"] == 300
    assert all("r1" in line and "gp" in line for line in lines if "d_loss" in line)  # the kind's recipe has a penalty
    config = load_config(run.path("config.yaml"))
    assert read_decisions(run) == {"loss.r1_gamma": 0.5, "loss.r2_gamma": 1.0}
    assert config.model.latent_dim == 8  # given


def test_previews_are_its_own_pictures(run):
    assert (
        run.list("samples") == ["000000.png", "000512.png", "001024.png", "reals.png"] or len(run.list("samples")) > 2
    )
    real = np.asarray(Image.open(run.path("samples/reals.png")))
    assert real.shape == (4 * 20, 64)
    assert ((real == 0).sum(0) == 4).all()  # four curves, one point of each in every column
    assert run.list("tensorboard")
    assert main(["report", run.path()]) == 0
    assert "data:image/png" in run.read("report.html").decode()


def in_this_thread(place, name, on_tick=None):
    """As `train`, on one thread, which bit-for-bit comparisons want."""
    prepared = prepare(load_config(overrides={**OWN, "storage": str(place), "name": name}))
    context = Context(torch.device("cpu"))
    status = loop.train(prepared.config, context, prepared.folder, on_tick=lambda _: on_tick and on_tick(context))
    return prepared.folder, status


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    folder, status = in_this_thread(tmp_path, "half", lambda context: context.request_stop())
    assert (status["state"], status["nimg"] < 512) == ("stopped", True)
    in_this_thread(tmp_path, "half")
    whole, _ = in_this_thread(tmp_path, "whole")
    last = CheckpointStore(whole).names()[-1]
    for name in ("generator/generator.safetensors", f"checkpoints/{last}/state.pt"):
        assert folder.read(name) == whole.read(name), name


@pytest.mark.parametrize("changes", [{"training.accumulate": 2, "data.mirror": True}, {"augment.kind": "ada"}])
def test_the_rest_of_the_loop_takes_it_too(tmp_path, changes):
    folder = train(tmp_path, "more", **{"kimg": 0.256, "data.device_mib": 0, **changes})
    assert json.loads(folder.read("status.json"))["state"] == "complete"


def test_samples(run, tmp_path, capsys):
    assert main(["sample", run.path(), "-n", "5", "--label", "saw", "--out", str(tmp_path / "s.npy")]) == 0
    assert "5 signals of waves" in capsys.readouterr().out
    found = np.load(tmp_path / "s.npy")
    assert (found.shape, found.dtype) == ((5, 64), np.int16)
    assert main(["sample", run.path(), "-n", "5", "--label", "2", "--out", str(tmp_path / "s.csv")]) == 0
    assert (np.loadtxt(tmp_path / "s.csv", delimiter=",") == found).all()
    assert main(["sample", run.path(), "-n", "5", "--out", str(tmp_path / "s.png")]) == 2
    assert "allowed: FILE.npy, FILE.csv" in capsys.readouterr().err
    assert main(["sample", run.path(), "-n", "2", "--walk", "3", "--out", str(tmp_path / "w.npy")]) == 0
    assert np.load(tmp_path / "w.npy").shape == (2, 3, 64)
    assert main(["sample", run.path(), "-n", "2", "--walk", "3", "--out", str(tmp_path / "w.gif")]) == 0


def test_the_generator_on_disk_says_what_it_makes(run, tmp_path):
    meta = json.loads(run.read("generator/generator.json"))
    assert (meta["kind"], meta["spec"]["shape"], meta["spec"]["value_range"]) == ("signals:KIND", [64], [-2, 2])
    generator = load_generator(run.child("generator"))
    assert generator.sample(torch.arange(3)).shape == (3, 64)
    assert main(["export", run.path(), "--out", str(tmp_path / "g.pt2")]) == 0


def test_evaluate(run, tmp_path, capsys):
    assert main(["evaluate", run.path(), "-n", "100", "--json", "--linear-probe"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["extractor"] == "spectrum"
    assert found["fid"] > found["floor_fid"] >= 0
    assert 0 <= found["linear_probe"] <= 1
    np.save(tmp_path / "same.npy", open_samples(DataConfig(kind="signals:KIND", name="waves")).samples)
    against = ["--against", "waves", "--data.kind", "signals:KIND", "--json"]
    assert main(["evaluate", str(tmp_path / "same.npy"), *against]) == 0
    assert json.loads(capsys.readouterr().out)["fid"] == pytest.approx(0, abs=1e-6)


def test_the_kind_is_found_and_described():
    config = DataConfig(kind="signals:KIND", name="waves")
    assert get_kind(config) is find_kind("signals:KIND")
    assert describe(config).shape == (64,)
    assert with_recipe(load_config(overrides={"data.kind": "signals:KIND", "data.name": "waves"})).model.latent_dim == 4
    assert get_kind(DataConfig()).name == "image"


def test_auto_asks_the_kinds_that_are_registered(monkeypatch):
    import signals

    from distgan.registry import KINDS

    monkeypatch.setattr(type(KINDS), "names", property(lambda _: ("image", "signals")))
    monkeypatch.setitem(KINDS._held, "signals", signals.KIND)
    assert get_kind(DataConfig(name="waves")) is signals.KIND
    assert get_kind(DataConfig(name="mnist10k")).name == "image"
    assert load_config(overrides={"data.kind": "signals"}).data.kind == "signals"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data.kind": "nowhere:KIND"}, r"data\.kind = 'nowhere:KIND': cannot be imported \(ModuleNotFoundError"),
        ({"data.kind": "signals:KIN"}, r"data\.kind = 'signals:KIN': cannot be imported \(AttributeError"),
        ({"data.kind": "signals:Signals"}, "is a class: give an object of it"),
        (
            {"data.kind": "signals:SPEC"},
            r"has no .*encode.*; expected an object with all of distgan\.kinds\.base\.Kind",
        ),
        ({"data.kind": "imag"}, r"data\.kind = 'imag': allowed: auto, image, package\.module:NAME; did you mean image"),
        ({"data.name": "wavs"}, "allowed: waves"),
        ({"model.generator": None}, "makes images; give networks of your own"),
        ({"model.g_args.speed": 3}, r"model\.generator = 'signal_networks:G'.*speed"),
        ({"data.labels": False}, r"model\.conditioning = 'projection'"),
        ({"metrics.extractor": "digits"}, "signals have auto only"),
    ],
)
def test_mistakes_are_told_before_a_run_starts(tmp_path, changes, says):
    with pytest.raises(ConfigError, match=says):
        prepare(load_config(overrides={**OWN, "storage": str(tmp_path), "name": "x", **changes}))
