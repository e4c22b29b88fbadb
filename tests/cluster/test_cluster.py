"""The whole way on three hosts: submit, train, lose a host and get it back, tokens, doctor. One cluster for all, about two minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import distgan
from distgan.config import RunConfig, dump_config

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(290)]

LONGER = {
    "workers": 2, "kimg": 6.4, "checkpoint.every_kimg": 0.64, "log.every_kimg": 0.32, "log.samples_every_kimg": 6.4,
    "metrics.every_kimg": 6.4,
}  # fmt: skip
"""Some ten seconds of training, so that there is time for trouble in the middle."""


@pytest.fixture(scope="module")
def checkout(lab) -> Path:
    """What a person has: the code and a config, and things that need not travel."""
    folder = lab.folder / "checkout"
    shutil.copytree(Path(distgan.__file__).parent, folder / "distgan", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__/\n/runs/\n")
    (folder / "runs").mkdir()
    with (folder / "runs" / "large").open("wb") as file:
        file.truncate(2**30)
    return folder


def nimg(folder: Path) -> int:
    try:
        return int(json.loads((folder / "status.json").read_text())["nimg"])
    except (OSError, ValueError, KeyError):
        return 0


def final_state(folder: Path) -> dict[str, Any]:
    """Weights, optimisers and averages of the last checkpoint."""
    state = torch.load(folder / "checkpoints" / f"{6400:012d}" / "state.pt", weights_only=True)
    return dict(state)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def train_undisturbed(lab, config: RunConfig, folder: Path) -> None:
    """The same run as two plain processes of torch, without Ray and without trouble."""
    file = folder / "plain.yaml"
    file.write_text(dump_config(config.model_copy(update={"engine": "local", "storage": str(folder), "name": "plain"})))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distgan", "train", "--config", str(file)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"OMP_NUM_THREADS": "1", "DISTGAN_CACHE": lab.env["DISTGAN_CACHE"]}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_outlives_the_loss_of_a_host(lab, checkout, tiny: Callable[..., RunConfig], tmp_path):
    config = tiny(engine="ray", storage=str(lab.shared), name="run", **LONGER)
    train_undisturbed(lab, config, tmp_path)
    (checkout / "run.yaml").write_text(dump_config(config))

    run, log = lab.shared / "run", lab.folder / "submit.log"
    words = ["submit", "train", "--address", lab.url, "--working-dir", str(checkout), "--config", "run.yaml"]
    job = lab.begin(*words, log=log)
    try:
        until = time.monotonic() + 90
        while nimg(run) < 1500:
            assert job.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        lab.cut("c")
        at = nimg(run)
        assert at < 5500, "the job was over before the host was lost"
        time.sleep(14)  # the head misses it, and the host gives up
        assert nimg(run) < 6400
        lab.kill("c")
        lab.mend("c")
        lab.start("c")
        assert job.wait(120) == 0, log.read_text()
    finally:
        if job.poll() is None:
            job.kill()
    ended = json.loads((run / "status.json").read_text())
    assert ended["state"] == "complete"
    assert ended["nimg"] == 6400
    assert equal(final_state(run), final_state(tmp_path / "plain"))
