"""`distgan evaluate`: what is compared with what, as the run itself measures, and at the real samples' form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_run import TINY

from distgan.cli import main
from distgan.config import ConfigError, load_config
from distgan.runs.evaluate import as_table, evaluate_source
from distgan.runs.local import run
from distgan.runs.prepare import prepare
from distgan.training.logs import read_status


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGAN_CACHE", str(tmp_path / "decoded"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("counts", [(980, 20), (600, 300, 100)])
def test_evaluate_says_what_the_run_says_of_classes_that_are_not_equally_many(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    shades = np.array([225, 30, 120])[labels]
    noise = np.random.default_rng(0).integers(0, 25, (1000, 16, 16))
    np.savez("uneven.npz", images=(shades[:, None, None] + noise).astype(np.uint8), labels=labels)
    changes: dict[str, Any] = {
        "data.name": "uneven.npz",
        "data.limit": "null",
        "model.name": "dcgan",
        "model.g_norm": "none",
        "model.d_norm": "none",
        "model.conditioning": "projection",
        "loss.name": "relativistic",
        "loss.r1_gamma": 1,
        "loss.r2_gamma": 1,
        "optim.g.lr": 5e-3,
        "optim.d.lr": 5e-3,
        "kimg": 4,
        "metrics.every_kimg": 100,
        "metrics.final_samples": 1000,
        "name": "uneven",
    }
    prepared = prepare(load_config(overrides={**TINY, **changes, "storage": "runs"}))
    assert run(prepared) == 0
    own = read_status(prepared.folder)["values"]["fid"]
    found = evaluate_source("uneven", n=1000, metrics="fid")["fid"]
    assert found == pytest.approx(own, rel=0.25)

    settings = prepared.folder.read("generator/generator.json").decode()
    even = settings.replace('"class_counts"', '"counts of before"')
    prepared.folder.write("generator/generator.json", even)
    evenly = evaluate_source("uneven", n=1000, metrics="fid")
    assert evenly["fid"] != pytest.approx(own, rel=0.4)
    assert "drawn equally often" in evenly["classes"]


def folders(*, side: int = 32) -> None:
    draw = np.random.default_rng(1)
    for name in ("colour", "grey", "small"):
        Path(name).mkdir()
    for i in range(120):
        pixels = draw.integers(0, 255, 3) + draw.integers(-40, 40, (side, side, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(f"colour/{i}.png")
        image.convert("L").save(f"grey/{i}.png")
        image.resize((16, 16)).save(f"small/{i}.png")


def test_what_is_measured_is_converted_to_what_the_real_samples_are() -> None:
    folders()
    np.save("grey.npy", np.stack([np.asarray(Image.open(f"grey/{i}.png")) for i in range(120)]))
    same = evaluate_source("colour", against="colour", metrics="fid")
    assert same["fid"] == pytest.approx(0, abs=1e-4)
    assert "converted" not in same
    for grey in ("grey", "grey.npy"):
        found = evaluate_source(grey, against="colour", metrics="fid")
        assert found["fid"] > 1
        assert found["converted"] == "the measured images, from (1, 32, 32) to (3, 32, 32), as the real ones are"
        assert "converted" in as_table(found)
    small = evaluate_source("small", against="colour", metrics="fid")
    assert small["fid"] > 0.01  # the detail that is missing is seen
    assert "from (3, 16, 16) to (3, 32, 32)" in small["converted"]
    assert evaluate_source("colour", against="small", metrics="fid")["converted"].endswith(
        "(3, 32, 32) to (3, 16, 16), as the real ones are"
    )


def test_a_generator_of_grey_digits_against_a_set_in_colour() -> None:
    folders()
    prepared = prepare(load_config(overrides={**TINY, "kimg": 0.128, "storage": "runs", "name": "digits"}))
    assert run(prepared) == 0
    found = evaluate_source("digits", against="colour", metrics="fid", n=100)
    assert found["converted"].endswith("from (1, 28, 28) to (3, 32, 32), as the real ones are")
    assert found["fid"] > 1


def test_a_run_s_own_samples_must_still_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    folders()
    changes = {"data.name": "small", "data.limit": "null", "kimg": 0.128, "storage": "runs", "name": "own"}
    assert run(prepare(load_config(overrides={**TINY, **changes}))) == 0
    Image.new("RGB", (16, 16)).save("small/7.png")
    with pytest.raises(ConfigError, match=r"small is not what .*own was started on.*--against PATH measures"):
        evaluate_source("own", n=100, metrics="fid")
    assert main(["evaluate", "own", "--against", "small", "-n", "100", "--metrics", "fid"]) == 0


def test_icons_with_opacity_that_are_not_square_from_training_to_measuring() -> None:
    """A run of the default networks is interrupted and goes on, and its files measure as the generator itself does."""
    draw = np.random.default_rng(0)
    Path("icons").mkdir()
    for i in range(96):
        pixels = np.zeros((32, 48, 4), np.uint8)
        pixels[..., 1] = 255  # nobody sees it
        top, left = draw.integers(0, 16, 2)
        pixels[top : top + 12, left : left + 20] = [*draw.integers(0, 256, 3), 255]
        Image.fromarray(pixels).save(f"icons/{i}.png")
    changes: dict[str, Any] = {
        "data": {"name": "icons", "limit": "null", "channels": 4, "resolution": "16x24", "mirror": True},
        "model": {"name": "dcgan", "g_norm": "none", "d_norm": "none", "g_width": 4, "d_width": 4},
        "loss": {"name": "relativistic", "r1_gamma": 1, "r2_gamma": 1},
        "augment": {"kind": "ada", "policy": "[flip, rotate90, translate, rotate, scale, colour, cutout]", "p": 0.5},
        "metrics": {"extractor": "random-conv"},
        "checkpoint": {"every_kimg": 0.096},
        "ray": {"cpus_per_worker": 1},
    }
    dotted = {f"{section}.{key}": value for section, values in changes.items() for key, value in values.items()}

    def train(name: str, kimg: float) -> Any:
        prepared = prepare(load_config(overrides={**TINY, **dotted, "kimg": kimg, "storage": "runs", "name": name}))
        assert run(prepared) == 0
        return prepared

    whole = train("whole", 0.192)
    train("parts", 0.096)
    parts = train("parts", 0.192)
    logs = [[json.loads(line) for line in p.folder.read("metrics.jsonl").splitlines()] for p in (whole, parts)]
    ends = [next(line for line in reversed(log) if "d_loss" in line) for log in logs]
    assert all(ends[0][key] == ends[1][key] for key in ("nimg", "d_loss", "g_loss", "d_grad_norm", "fid"))
    grid = np.asarray(Image.open(sorted(Path("runs/whole/samples").glob("0*.png"))[-1]))
    assert grid.shape == (2 * 36 + 4, 2 * 52 + 4, 3)

    own = evaluate_source("whole", n=80, metrics="fid", extractor="random-conv")
    assert main(["sample", "whole", "-n", "80", "--out", "made"]) == 0
    files = evaluate_source(
        "made",
        against="icons",
        metrics="fid",
        extractor="random-conv",
        overrides={"data.channels": 4, "data.resolution": "16x24"},
    )
    assert files["fid"] == pytest.approx(own["fid"], rel=1e-3)
    assert "converted" not in files
    seen = evaluate_source("whole", against="icons", n=80, metrics="fid")
    assert seen["converted"].endswith("from (4, 16, 24) to (3, 32, 48), as the real ones are")
