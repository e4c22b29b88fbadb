"""Runs that begin with the weights of another, from the settings to the end: what is taken from where, what is
refused, and that nothing of the source is needed afterwards.
"""

import json
import shutil
import threading

import numpy as np
import pytest
import torch

from distgan.config import ConfigError, load_config
from distgan.runs.beginning import find_source, inherited, same_source
from distgan.runs.prepare import prepare, read_run_config, taken_back
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.checkpoint import CheckpointStore
from distgan.training.context import Context
from distgan.training.logs import read_status

SMALL = {
    "name": None,
    "kimg": 0.256,
    "data.limit": "null",
    "model.name": "dcgan",
    "model.g_width": 4,
    "model.d_width": 4,
    "model.g_norm": "none",
    "model.d_norm": "none",
    "model.conditioning": "auto",
    "checkpoint.every_kimg": 0.064,
    "metrics.every_kimg": 5,
    "metrics.names": "[kid]",
    "checkpoint.best_metric": "kid",
    "augment.kind": "none",
}
NETWORKS = tuple(name for name in SMALL if name.startswith("model."))


@pytest.fixture
def arrays(tmp_path):
    """Writes NAME.npz of coloured noise in so many classes, and returns its path."""

    def write(name, classes=("cat", "dog"), side=16, channels=3, seed=0):
        draw = np.random.default_rng(seed)
        images = draw.integers(0, 256, (64, side, side, channels), dtype=np.uint8)
        labels = {"labels": np.array(classes)[np.arange(64) % len(classes)]} if classes else {}
        np.savez(tmp_path / f"{name}.npz", images=images, **labels)
        return str(tmp_path / f"{name}.npz")

    return write


@pytest.fixture
def make(tiny):
    """`make(name, data, **settings)`: the settings of a small run; without those of the networks if it is
    fine-tuned.
    """

    def config(name, data, **changes):
        values = {**SMALL, "name": name, "data.name": data}
        given = tiny(**values | changes)
        if given.finetune is None:
            return given
        plain = {k: v for k, v in values.items() if k not in NETWORKS} | changes
        settings = tiny(**plain).model_dump(mode="json")
        settings.pop("model")
        model = {k.partition(".")[2]: v for k, v in changes.items() if k.startswith("model.")}
        return load_config(base=settings | {"model": model})

    return config


def train(config, on_tick=None):
    prepared = prepare(config)
    context, events = Context(torch.device("cpu")), []
    try:
        status = loop.train(
            prepared.config,
            context,
            prepared.folder,
            on_tick=lambda s: on_tick and on_tick(s, context),
            tell=lambda nimg, text: events.append((nimg, text)),
        )
    finally:
        for thread in threading.enumerate():
            if thread.name == "checkpoint-writer":
                thread.join()
    return status, prepared.folder, events


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_fine_tuned_run_is_a_new_run_that_needs_its_source_no_more(make, arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, source, _ = train(make("first", arrays("first")))
    old = CheckpointStore(source).newest()[1]
    data = arrays("second", ("dog", "eel"), seed=1)
    how = {"finetune": "first", "training.freeze_d": 1}

    status, whole, events = train(make("whole", data, **how))
    assert events[0] == (0, "fine-tuning from first at 0.256 kimg: 1 of 2 classes by name (eel as the mean of its 2)")
    assert (status["nimg"], read_status(whole)["state"]) == (256, "complete")
    assert json.loads(whole.read("data.json"))["classes"] == ["dog", "eel"]
    config = read_run_config(whole)
    assert (config.finetune, config.model.g_width, config.model.name) == (source.uri, 4, "dcgan")
    state = CheckpointStore(whole).newest()[1]
    frozen = {name for name in old["D"] if same(old["D"][name], state["D"][name])}
    assert frozen == {"first.weight", "first.bias"}

    # The same, but stopped, cut off, and with the source gone after the first start
    def stop(status, context):
        if 100 < status["nimg"] < 160:
            shutil.rmtree(tmp_path / "runs/first")
            context.request_stop()

    def fail(status, context):
        if status["nimg"] > 160:
            raise RuntimeError("power cut")

    config = make("parts", data, **how)
    assert train(config, stop)[0]["state"] == "stopped"
    assert prepare(config).state == "resume"
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, fail)
    status, parts, events = train(make("parts", data, **how | {"finetune": "./runs/first"}))
    assert (status["state"], [text for _, text in events if "fine-tuning" in text]) == ("complete", [])
    ours, theirs = CheckpointStore(parts).newest()[1], state
    assert ours["window"] == pytest.approx(theirs["window"])  # means over log intervals, which a stop divides
    assert {part for part in ours if not same(ours[part], theirs[part])} <= {"window", "health"}
    assert prepare(read_run_config(parts)).state == "complete"
    # but with other weights, or none, it would be another run
    for other in ({"finetune": "second"}, {"finetune": None, "training.freeze_d": 0}):
        with pytest.raises(ConfigError, match=r"finetune = .*: run .*parts was started with"):
            prepare(make("parts", data, **how | other))


def test_a_start_that_was_cut_off_takes_the_same_way(make, arrays):
    train(make("first", arrays("first")))
    config = make("second", arrays("second", seed=1), finetune="first", kimg=0.064)
    _, whole, events = train(config)
    expected = CheckpointStore(whole).newest()[1]
    whole.remove("")
    prepare(config)  # all that was there when it was cut off: config.yaml and checkpoint 0
    assert CheckpointStore(whole).names() == ["000000000000"]
    assert CheckpointStore(whole).load(0)[1]["data"] == ""
    status, _, again = train(config)
    assert (status["state"], again[0]) == ("complete", events[0])
    assert same(CheckpointStore(whole).newest()[1], expected)
    # cut off before that, it begins anew
    for name in whole.list():
        if name != "config.yaml":
            whole.remove(name)
    assert prepare(config).state == "new"
    assert CheckpointStore(whole).names() == ["000000000000"]
    # a damaged beginning is no reason to train from random weights
    file = whole.path("checkpoints/000000000000/state.pt")
    with open(file, "r+b") as opened:
        opened.truncate(100)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ConfigError, match="no intact checkpoint to begin"):
        train(config)


def test_refused_before_anything_is_written(make, arrays, tmp_path):
    data = arrays("first")
    train(make("first", data))
    for changes, says in (
        ({"finetune": "frist"}, "finetune = frist: no weights there .*/runs/frist"),
        ({"finetune": "first", "model.g_width": 8}, r"model\.g_width: \d+ layers of G are of another width"),
        ({"finetune": "first", "model.name": "mlp"}, r"model\.name = 'mlp': first has 'dcgan'"),
        ({"finetune": "first", "data.resolution": 28}, r"data\.resolution: the layers of G"),
        ({"finetune": "first", "training.freeze_d": 3}, "freeze_d = 3: this discriminator has 2 stages"),
    ):
        with pytest.raises(ConfigError, match=says):
            prepare(make("second", data, **changes))
        assert not (tmp_path / "runs/second").exists()
    with pytest.raises(ConfigError, match=r"training\.freeze_d = 1: .*finetune names none"):
        make("second", data, **{"training.freeze_d": 1})
    # and one that is refused later, before its first step, leaves its name free
    prepared = prepare(make("second", data, finetune="first"))
    with pytest.raises(ConfigError, match="too few"), taken_back(prepared):
        raise ConfigError("too few nodes")
    assert not (tmp_path / "runs/second").exists()


def test_what_is_not_given_is_the_source_s(make, arrays):
    train(make("first", arrays("first"), **{"model.latent_dim": 12, "loss.r1_gamma": 0.7}))
    prepared = prepare(make("second", arrays("second", (), side=40, channels=1, seed=2), finetune="first"))
    config = prepared.config
    assert (config.model.latent_dim, config.model.g_width, config.data.resolution) == (12, 4, 16)
    assert (config.model.conditioning, config.loss.r1_gamma) == ("none", 0)  # the data's and this run's
    told = json.loads(prepared.folder.read("finetuned.json"))["event"]
    assert told.endswith("labels dropped, channels 3 -> 1")

    prepared = prepare(make("large", arrays("third", side=64), finetune="first", **{"data.resolution": 64}))
    assert prepared.config.model.g_args == {"widths": [8, 4, 4, 4]}
    told = json.loads(prepared.folder.read("finetuned.json"))["event"]
    assert told.endswith("2 of 2 classes by name, resolution 16 -> 64, 3 layers of G and 3 layers of D new")
    status, _, _ = train(make("large", arrays("third", side=64), finetune="first", **{"data.resolution": 64}))
    assert status["state"] == "complete"
    back = prepare(make("back", arrays("first"), finetune="large", **{"data.resolution": 16}))
    assert back.config.model.d_args == {"widths": [8, 4]}


def test_a_classifying_discriminator_stays_one_where_there_are_classes(make, arrays):
    train(make("first", arrays("first"), **{"model.conditioning": "auxiliary"}))
    config = prepare(make("second", arrays("second", ("dog", "eel", "cat"), seed=1), finetune="first")).config
    assert config.model.conditioning == "auxiliary"
    assert prepare(make("third", arrays("third", ()), finetune="first")).config.model.conditioning == "none"


def test_a_generator_is_enough(make, arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, folder, _ = train(make("first", arrays("first")))
    shutil.copytree(folder.path("generator"), tmp_path / "exported")
    weights = CheckpointStore(folder).newest()[1]["ema"]
    for name, source in (("a", "exported"), ("b", str(tmp_path / "exported/generator.json"))):
        prepared = prepare(make(name, arrays("second", seed=1), finetune=source))
        begun = CheckpointStore(prepared.folder).load(0)[1]
        assert all(same(weight, weights[f"0.2/{key}"]) for key, weight in begun["G"].items())
        assert "without a discriminator, which begins new" in prepared.folder.read("finetuned.json").decode()
    folder.remove("checkpoints")  # a run of which only the generator was kept
    assert find_source("first", "./runs")[1].uri == folder.child("generator").uri


def test_names_and_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("runs/first", "first", "other/first"):
        Folder(tmp_path / place).write("generator.json", "{}")
    assert find_source("first", "./runs")[0].uri == str(tmp_path / "runs/first")
    assert find_source("./first", "./nowhere")[0].uri == str(tmp_path / "first")
    assert find_source("other/first", "./runs")[0].uri == str(tmp_path / "other/first")
    Folder(tmp_path / "runs/search").write("search.yaml", "")
    with pytest.raises(ConfigError, match="this search has no winner yet"):
        find_source("search", "./runs")
    for now in ("first", "./runs/first", str(tmp_path / "runs/first")):
        assert same_source(str(tmp_path / "runs/first"), now, "./runs")
    assert not same_source(str(tmp_path / "runs/first"), "second", "./runs")
    assert same_source(None, None, "./runs")
    assert not same_source(None, "first", "./runs")


def test_a_job_keeps_the_name_that_was_typed(make, arrays, monkeypatch):
    train(make("first", arrays("first"), kimg=0.064))
    config = make("second", arrays("second"), finetune="first")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert inherited(config, None)[0].finetune == "first"
