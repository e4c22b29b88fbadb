"""Real runs on Ray, as few as will do: two workers of one CPU, resumed; and the same run with a worker killed on the way."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY

from distgan.config import load_config
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for Ray's processes in /proc"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs"),
    pytest.mark.timeout(280),
]
KIMG = 30
WORDS = TINY | {
    "engine": "ray",
    "workers": 2,
    "ray.cpus_per_worker": 1,
    "kimg": KIMG,
    "batch_size": 64,
    "log.every_kimg": 0.5,
    "log.samples_every_kimg": 20,
    "checkpoint.every_kimg": 2,
    "metrics.every_kimg": 100,  # at the end only
    "metrics.final_samples": 200,
    "training.ema_half_life_kimg": "[1]",
}


class Place:
    """A working folder with a home, caches and a folder for Ray of its own, all gone afterwards."""

    def __init__(self, caches):
        # Ray's sockets lie there, and their paths may have 107 characters at most
        self.root = Path(tempfile.mkdtemp(prefix="dg-"))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.env |= {"HOME": str(self.root), "RAY_TMPDIR": str(self.root), "DISTGAN_CACHE": str(caches / "decoded"), "OMP_NUM_THREADS": "1"}
        self._started = []

    def start(self, *extra, **changes):
        words = [w for k, v in (WORDS | changes).items() for w in (f"--{k.replace('_', '-')}", str(v))]
        process = subprocess.Popen(
            [sys.executable, "-m", "distgan", "train", *words, *extra],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.root, env=self.env, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def finish(self, process, timeout=200):
        """(exit status, what was said, seconds it took from now)."""
        start = time.monotonic()
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end(process)
            pytest.fail(f"no end after {timeout} s; it said:\n{process.communicate(timeout=20)[0]}")
        return process.returncode, said, time.monotonic() - start

    def train(self, *extra, **changes):
        return self.finish(self.start(*extra, **changes))

    def run(self, name):
        return self.root / "runs" / name

    def close(self):
        for process in self._started:
            end(process)
        shutil.rmtree(self.root, ignore_errors=True)


def end(process):
    """The driver and everything below it."""
    for pid in [*(pid for pid, _ in below(process.pid)), process.pid]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=20)


def below(root):
    """(pid, command) of all living processes that descend from `root`."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(entry.name)] = int(parent)
                    commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def descends(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return [(pid, command) for pid, command in commands.items() if descends(pid)]


def status_of(folder):
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "status.json").read_text())
    return {}


@pytest.fixture(scope="module")
def place(caches):
    made = Place(caches)
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(place):
    """The run on two workers: (exit status and words of the first half, those of the whole, its folder)."""
    half = place.train(name="calm", kimg=KIMG / 2)
    whole = place.train(name="calm")
    return half, whole, place.run("calm")


def test_a_run_on_two_workers_leaves_everything_behind(undisturbed):
    (code, said, _), _, folder = undisturbed
    assert code == 0, said
    assert "2 workers with 1 CPU each" in said
    assert f"complete: {KIMG / 2:.5g}" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) < 30, f"Ray's noise:\n{said}"
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "status.json",
        "samples/000000.png",
        "samples/reals.png",
        "generator/generator.safetensors",
    ):
        assert (folder / name).is_file(), name
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["nimg"] == 512
    assert first["images_per_s"] > 0


def test_a_larger_budget_goes_on_where_it_ended(undisturbed):
    _, (code, said, _), folder = undisturbed
    assert code == 0, said
    assert f"complete: {KIMG:.4g}" in said
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [line["nimg"] for line in lines]
    assert numbers == sorted(set(numbers))  # each point once
    assert numbers[-1] == load_config(overrides=WORDS).total_images
    assert [line["nimg"] for line in lines if "fid" in line] == [15040, numbers[-1]]
    assert status_of(folder)["state"] == "complete"


def test_the_same_command_again_is_complete_at_once(place, undisturbed):
    code, said, seconds = place.train(name="calm")
    assert code == 0
    assert said.startswith("already complete: ")
    assert seconds < 30


def test_more_workers_than_there_is_room_for_are_refused_at_once(place):
    code, said, seconds = place.train(name="many", workers=64)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("distgan: workers = 64: the cluster has ")
    assert "allowed: auto, or 1 to " in said
    assert seconds < 60


def test_a_killed_worker_costs_time_and_nothing_else(place, undisturbed):
    """Rule 4 of the house under Ray: the weights are those of the undisturbed run, bit for bit."""
    process = place.start(name="hurt")
    folder, deadline = place.run("hurt"), time.monotonic() + 120
    while not 5 <= status_of(folder).get("kimg", 0) < KIMG and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    workers = [pid for pid, command in below(process.pid) if "RayTrainWorker" in command]
    at = status_of(folder).get("kimg")
    assert len(workers) == 2, f"found {workers} at {at} kimg"
    os.kill(max(workers), signal.SIGKILL)
    code, said, _ = place.finish(process)
    assert at < KIMG - 5, "killed too late to tell anything"
    assert code == 0, said
    assert f"complete: {KIMG:.4g}" in said

    states = [CheckpointStore(Folder(place.run(name))).newest() for name in ("calm", "hurt")]
    assert states[0][0] == states[1][0]
    for part in ("G", "D", "ema"):
        for name, tensor in states[0][1][part].items():
            assert torch.equal(tensor, states[1][1][part][name]), f"{part} {name}"
    numbers = [json.loads(line)["nimg"] for line in (folder / "metrics.jsonl").read_text().splitlines() if "event" not in line]
    assert numbers == sorted(set(numbers))


def test_no_process_is_left(place, undisturbed):
    for process in place._started:
        assert process.poll() is not None
        assert below(process.pid) == []
    left = [c for p in Path("/proc").iterdir() if p.name.isdigit() for c in [command(p)] if str(place.root) in c]
    assert left == []


def command(process):
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
