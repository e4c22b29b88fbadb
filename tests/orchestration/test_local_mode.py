"""One worker is Ray Train's local mode: in the command's own process, alone or as a rank of torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_run import TINY

from distgan.config import load_config
from distgan.orchestration.train import is_local
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore

pytestmark = pytest.mark.timeout(200)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(place, caches, *launcher, env=None, **changes):
    settings = TINY | {"engine": "ray", "storage": str(place), **changes}
    words = [w for k, v in settings.items() for w in (f"--{k}", str(v))]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "distgan", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"DISTGAN_CACHE": str(caches / "decoded"), "OMP_NUM_THREADS": "1"} | (env or {}),
    )


def finish(process, code=0):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def state(place, name):
    return CheckpointStore(Folder(place).child(name)).newest()


def assert_equal(a, b):
    assert a[0] == b[0]
    for part in ("G", "D", "ema"):
        for name, weight in a[1][part].items():
            assert torch.equal(weight, b[1][part][name]), f"{part} {name}"


def test_one_worker_is_this_process_and_trains_what_plain_pytorch_does(tmp_path, caches):
    """No cluster: no child process, no open port. A leftover of torchrun's variables changes nothing."""
    process = start(tmp_path, caches, name="ray", kimg=20, env={"RANK": "3", "WORLD_SIZE": "4"})
    status = tmp_path / "ray" / "status.json"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (status.exists() and json.loads(status.read_text()).get("nimg")):
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    assert process.poll() is None, process.communicate()[0]
    assert children == []
    said = finish(process)
    assert "1 worker with" in said
    assert "ray" not in said.lower().replace(str(tmp_path), "").replace("/ray", "").replace("sample ray", "")
    finish(start(tmp_path, caches, name="plain", kimg=20, engine="local"))
    assert_equal(state(tmp_path, "ray"), state(tmp_path, "plain"))


def test_under_torchrun_ray_trains_what_plain_pytorch_does(tmp_path, caches):
    said = finish(start(tmp_path, caches, *TORCHRUN, name="ray"))
    assert said.count("2 workers of torchrun") == 1
    assert said.count("complete: ") == 1
    finish(start(tmp_path, caches, *TORCHRUN, name="plain", engine="local"))
    assert_equal(state(tmp_path, "ray"), state(tmp_path, "plain"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_a_run_with_a_checkpoint_and_the_next_start_goes_on(tmp_path, caches, number):
    how = {"name": "run", "kimg": 4000, "checkpoint.every_kimg": 2000, "log.every_kimg": 1}
    process = start(tmp_path, caches, **how)
    lines = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and '"nimg": 2' in lines.read_text()):
        time.sleep(0.02)
    process.send_signal(number)
    assert "nothing is lost" in finish(process, 130)
    stopped = state(tmp_path, "run")[0]
    assert 2000 <= stopped < 4_000_000
    said = finish(start(tmp_path, caches, **how | {"kimg": stopped / 1000 + 2}))
    assert "complete: " in said
    first = next(
        json.loads(line)["nimg"] for line in lines.read_text().splitlines() if json.loads(line)["nimg"] > stopped
    )
    assert first <= stopped + 1000 + 32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"workers": 1}, True),
        ({"workers": 2}, False),
        ({"workers": "{min: 1, max: 2}"}, False),
        ({"ray.address": "10.0.0.1:6379"}, False),
        ({"ray.dashboard": True}, False),
    ],
)
def test_when_a_cluster_is_needed(changes, expected):
    assert is_local(load_config(overrides=TINY | {"engine": "ray"} | changes)) is expected


def test_several_gpus_are_several_workers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert not is_local(load_config(overrides=TINY | {"engine": "ray"}))
    assert is_local(load_config(overrides=TINY | {"engine": "ray", "workers": 1}))
    assert is_local(load_config(overrides=TINY | {"engine": "ray", "ray.gpus_per_worker": 0}))


def test_an_address_in_the_environment_is_a_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not is_local(load_config(overrides=TINY | {"engine": "ray"}))


@pytest.mark.parametrize(
    "left",
    [
        {"RANK": "abc", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": ""},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "", "LOCAL_WORLD_SIZE": "", "MASTER_PORT": "29500"},
    ],
)
def test_a_whole_set_of_leftovers_that_mean_nothing_changes_nothing(tmp_path, caches, left):
    """Ray and torch look at the names; their values would end this start, or make it wait for ranks that never come."""
    finish(start(tmp_path, caches, name="left", env={"MASTER_ADDR": "localhost", **left}))
    finish(start(tmp_path, caches, name="plain"))
    assert_equal(state(tmp_path, "left"), state(tmp_path, "plain"))
