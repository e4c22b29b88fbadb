"""What a type checker and an editor see of the Python interface: a user's file under mypy --strict."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="no checkout"),
    pytest.mark.timeout(280),
]

RIGHT = """
from pathlib import Path

import torch
from typing_extensions import assert_type

import distgan


def work(photos: Path) -> float:
    run = distgan.train(data=photos, kimg=100, optim={"g": {"lr": 1e-4}})
    assert_type(run, distgan.Run)
    losses = [line["d_loss"] for line in run.metrics]
    run.samples().save("grid.png")
    run = run.resume(kimg=200)
    generator = distgan.load("photos", device="cpu")
    assert_type(generator, distgan.Generator)
    module: torch.nn.Module = generator
    images = generator.sample(16, seed=0, label="cat", truncation=0.7)
    assert_type(images, torch.Tensor)
    generator.save(Path("generator.onnx"))
    names: tuple[str, ...] = generator.classes
    search = distgan.tune("run.yaml", {"g_lr": {"loguniform": [1e-5, 1e-3]}}, tune={"num_samples": 8})
    best = distgan.train(search.best_config, name="best")
    print(losses, module, names, best.name, search.trials[0], distgan.open_run(search).folder, distgan.__version__)
    try:
        found = distgan.evaluate(run, metrics=["fid"], n=1000)
    except (distgan.ConfigError, distgan.RunError) as error:
        raise SystemExit(str(error)) from None
    return float(found["fid"])
"""
WRONG = """
import distgan

distgan.tain()
distgan.load("photos").sample(n="many")
distgan.open_run("photos").smaples()
distgan.evaluate("photos", metric="fid")
"""


def test_a_users_file_is_checked_strictly(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    words = [
        "--strict",
        "--follow-imports",
        "silent",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-error-summary",
    ]
    cache = ROOT / ".mypy_cache"  # that of `mypy`, if it is there, saves half a minute
    place = [str(tmp_path / "right.py"), str(tmp_path / "wrong.py")]
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            *words,
            "--cache-dir",
            str(cache if cache.is_dir() else tmp_path / "cache"),
            *place,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=270,
    )
    errors = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert [line for line in errors if "wrong.py" not in line] == [], found.stderr
    assert [int(line.split(":")[1]) for line in errors] == [4, 5, 6, 7], found.stdout
