"""Whoever adds a file to a package adds the name: settings take it, help tells it, a run uses it."""

import importlib
import json
import subprocess
import sys

import pytest
from tiny_run import TINY

from distgan import registry
from distgan.cli import main
from distgan.config import ConfigError, allowed_text, find_field, load_config
from distgan.registry import Registry, objectives
from distgan.storage import Folder

ALL = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}

LOSS = """
from distgan.gan.losses.base import Loss
LOSS = Loss(d=lambda real, fake: (fake - real).exp().mean(), g=lambda real, fake: -fake.mean())
"""
METRIC = """
from distgan.metrics.measures.base import Measure
def _compute(made, real):
    return {"mean_gap": float((made.moments.mean - real.moments.mean).norm())}
MEASURE = Measure({"mean_gap": "lower"}, _compute)
"""
WRITER = """
class Notes:
    def __init__(self, folder, nimg):
        self.file = folder / "notes.txt"
    def scalars(self, nimg, values):
        with self.file.open("a") as file:
            file.write(f"{nimg} {sorted(values)}\\n")
    def event(self, nimg, text): pass
    def picture(self, nimg, name, picture): pass
    def rewind(self, nimg): pass
    def flush(self): pass
    def close(self): pass
WRITER = Notes
"""
NETWORK = """
from distgan.models.families.base import Family
FAMILY = Family("distgan.models.mlp:MLPGenerator", "distgan.models.mlp:MLPDiscriminator")
"""
EXTRACTOR = """
def EXTRACTOR(wanted):
    return (lambda images: images.flatten(1).float()[:, :16]), "corner"
"""
DATA_SET = """
import numpy as np
from distgan.kinds.image.image_set import image_spec, in_memory
class Squares:
    def __init__(self, config): pass
    def describe(self): return image_spec("squares", 1, 8, n=64)
    def open(self, progress=None):
        return in_memory(np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), np.uint8), None, (), "squares")
SET = Squares
"""


@pytest.fixture
def added(tmp_path, monkeypatch):
    """added(registry, name, text): a module in a folder that is put on the registry's package path for one test."""

    def add(where, name, text):
        folder = tmp_path / where.package
        folder.mkdir(exist_ok=True)
        stem = name.replace("-", "_")
        (folder / f"{stem}.py").write_text(text)
        package = importlib.import_module(where.package)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.setattr(where, "_held", dict(where._held))
        monkeypatch.setitem(sys.modules, f"{where.package}.{stem}", None)
        monkeypatch.delitem(sys.modules, f"{where.package}.{stem}")

    return add


@pytest.mark.parametrize("name", ALL)
def test_every_name_is_there_and_not_stated_twice(name):
    found = ALL[name]
    assert len(found) == len(set(found)) > 0
    assert list(found) == sorted(found)
    for one in found:
        assert found[one] is found[one]
        assert one == one.lower()
    with pytest.raises(KeyError, match="allowed: "):
        found["no-such"]


def test_names_need_no_import():
    code = (
        "import sys; from distgan import registry\nnames = [list(v) for v in vars(registry).values() if isinstance(v, "
        "registry.Registry)]\nassert all(names) and not [m for m in sys.modules if m.startswith('distgan.') and m not "
        "in ('distgan.registry', 'distgan.text')]\nfrom distgan.config import "
        "load_config\nload_config(overrides={'loss.name': 'hinge', 'checkpoint.best_metric': 'kid', 'tune.metric': "
        "'modes'})\nassert 'torch' not in sys.modules and 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_all_that_is_added_works_together(added, tmp_path, capsys):
    added(registry.LOSSES, "exponential", LOSS)
    added(registry.METRICS, "mean-gap", METRIC)
    added(registry.LOG_WRITERS, "notes", WRITER)
    added(registry.NETWORKS, "flat", NETWORK)
    added(registry.EXTRACTORS, "corner", EXTRACTOR)
    added(registry.DATA_SETS, "squares", DATA_SET)
    changes = {
        "loss.name": "exponential",
        "metrics.names": "[mean-gap]",
        "checkpoint.best_metric": "mean_gap",
        "model.name": "flat",
        "metrics.extractor": "corner",
        "data.name": "squares",
        "data.limit": "null",
    }
    settings = {**TINY, "storage": str(tmp_path / "runs"), "name": "new", **changes}
    config = load_config(overrides=settings)
    assert set(config.log.chosen_writers) == {"jsonl", "notes"}
    assert main(["train", *(word for key, value in settings.items() for word in (f"--{key}", str(value)))]) == 0
    folder = Folder(tmp_path / "runs" / "new")
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    assert [line["mean_gap"] > 0 for line in lines if "mean_gap" in line] == [True, True]
    assert json.loads(folder.read("status.json"))["best"]["metric"] == "mean_gap"
    assert len(folder.read("notes.txt").splitlines()) == len([line for line in lines if "d_loss" in line])
    assert main(["report", folder.path()]) == 0
    assert "<th>mean_gap</th>" in folder.read("report.html").decode()
    capsys.readouterr()
    assert main(["train", "--help", "all"]) == 0
    helped = " ".join(capsys.readouterr().out.split())
    for name in ("exponential", "mean-gap", "mean_gap", "flat", "corner", "squares"):
        assert name in helped, name


@pytest.mark.parametrize(
    ("where", "setting", "value"),
    [
        ("LOSSES", "loss.name", "exponentail"),
        ("METRICS", "metrics.names", "exponentail"),
        ("LOG_WRITERS", "log.writers", "exponentail"),
        ("NETWORKS", "model.name", "exponentail"),
        ("EXTRACTORS", "metrics.extractor", "exponentail"),
        ("KINDS", "data.kind", "exponentail"),
    ],
)
def test_what_is_added_is_allowed_and_near_misses_are_told(added, monkeypatch, where, setting, value):
    texts = {"LOSSES": LOSS, "METRICS": METRIC, "LOG_WRITERS": WRITER, "NETWORKS": NETWORK, "EXTRACTORS": EXTRACTOR}
    if where == "KINDS":
        monkeypatch.setattr(Registry, "names", property(lambda self: ("exponential", "image")))
    else:
        added(ALL[where], "exponential", texts[where])
    assert "exponential" in allowed_text(find_field(setting))
    with pytest.raises(ConfigError, match=r"exponential.*did you mean exponential"):
        load_config(overrides={setting: f"[jsonl, {value}]" if where == "LOG_WRITERS" else value})
    load_config(overrides={setting: "[jsonl, exponential]" if where == "LOG_WRITERS" else "exponential"})


def test_objectives_say_which_way_is_better():
    assert objectives("lower") == {"class_kl": "class-kl", "fid": "fid", "kid": "kid"}
    assert {"precision", "coverage", "modes", "inception_score"} < set(objectives("higher"))
    assert objectives() == objectives("lower") | objectives("higher")
    for setting, bad in (("checkpoint.best_metric", "modes"), ("tune.metric", "kid_std")):
        with pytest.raises(ConfigError, match=f"{setting} = .*allowed: .*fid"):
            load_config(overrides={setting: bad})


def test_the_lines_that_others_read_cannot_be_left_out():
    with pytest.raises(ConfigError, match=r"log\.writers = \['tensorboard'\]: must hold jsonl"):
        load_config(overrides={"log.writers": "[tensorboard]"})
    assert load_config(overrides={"log.tensorboard": False}).log.chosen_writers == ["jsonl"]
    assert load_config(overrides={"log.writers": "[jsonl]"}).log.chosen_writers == ["jsonl"]
