"""What only the samples tell is decided once, said, and stays."""

import json

import numpy as np
import torch
from PIL import Image
from tiny_run import TINY

from distgan.config import load_config, validate
from distgan.kinds import open_samples
from distgan.runs.prepare import prepare
from distgan.storage import Folder
from distgan.training import loop
from distgan.training.context import Context
from distgan.training.decide import RECIPE, decide, read_decisions

CPU = torch.device("cpu")
AUTO = TINY | {"loss.name": "relativistic", "loss.r1_gamma": "auto", "loss.r2_gamma": "auto", "augment.kind": "auto"}


def test_auto_gets_the_values_of_the_data_and_what_is_given_stays(tmp_path):
    folder = Folder(tmp_path)
    config = load_config(overrides=AUTO | {"loss.r2_gamma": 3})
    samples = open_samples(config.data)
    made, text = decide(config, samples, Context(CPU), folder)
    assert made.loss.gammas[1] == 3
    assert 0.03 < made.loss.gammas[0] < 0.2
    assert text.startswith(f"by the data: loss.r1_gamma = {made.loss.gammas[0]:g}, augment.kind = ")
    assert "r2" not in text
    assert read_decisions(folder)["loss.r1_gamma"] == made.loss.gammas[0]
    given = load_config(overrides=TINY | {"loss.r1_gamma": 0, "loss.r2_gamma": 0, "augment.kind": "none"})
    assert decide(given, samples, Context(CPU), Folder(tmp_path / "other")) == (given, "")


def test_a_run_that_goes_on_keeps_what_was_decided(tmp_path):
    config = load_config(overrides=AUTO)
    samples = open_samples(config.data)
    (tmp_path / RECIPE).write_text(json.dumps({"loss.r1_gamma": 7.0, "loss.r2_gamma": 7.0, "augment.kind": "none"}))
    made, text = decide(config, samples, Context(CPU), Folder(tmp_path))
    assert (made.loss.gammas, made.augment.kind, text) == ((7.0, 7.0), "none", "")


def test_the_loop_decides_and_tells(tmp_path):
    prepared = prepare(load_config(overrides=AUTO | {"storage": str(tmp_path), "name": "auto"}))
    loop.train(prepared.config, Context(CPU), prepared.folder)
    lines = [json.loads(line) for line in prepared.folder.read("metrics.jsonl").decode().splitlines()]
    assert any("by the data: loss.r1_gamma = " in line.get("event", "") for line in lines)
    assert all(line["r1"] > 0 for line in lines if "d_loss" in line)
    assert "r1_gamma: auto" in prepared.folder.read("config.yaml").decode()
    again = prepare(load_config(overrides=AUTO | {"storage": str(tmp_path), "name": "auto"}))
    assert again.state == "complete"


def test_few_pictures_are_augmented_and_few_of_them_held_out(tmp_path):
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    config = load_config(overrides=AUTO | {"data.name": str(tmp_path), "data.resolution": 16})
    made, _ = decide(config, open_samples(config.data), Context(CPU), Folder(tmp_path / "run"))
    assert made.augment.kind == "diffaugment"
    assert made.augment.target is not None
    assert made.optim.g.lr == TINY["optim.g.lr"]  # given
    bare = {name: value for name, value in AUTO.items() if not name.endswith(".lr")} | {"data.name": str(tmp_path)}
    config = load_config(overrides=bare | {"data.resolution": 16})
    passed = validate(config.model_dump(mode="json", exclude_unset=True))  # as Ray's workers get it
    for each in (config, passed):
        made, _ = decide(each, open_samples(config.data), Context(CPU), Folder(tmp_path / "run3"))
        assert (made.augment.kind, made.augment.target is None) == ("diffaugment", False)
    chosen = load_config(overrides=AUTO | {"data.name": str(tmp_path), "data.resolution": 16, "augment.kind": "none"})
    made, _ = decide(chosen, open_samples(chosen.data), Context(CPU), Folder(tmp_path / "run2"))
    assert (made.augment.kind, made.augment.target) == ("none", None)
