"""Real runs on Ray, as few as will do: two workers of one CPU; the run continued, with a worker killed on the way.

The reference is the same run under torchrun, undisturbed: Ray, the interruption and the failure must change no bit of
it.
"""

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
from ray.train import Result
from tiny_run import TINY

from distgan.config import load_config
from distgan.storage import Folder
from distgan.training.checkpoint import CheckpointStore

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for Ray's processes in /proc"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers need two CPUs"),
    pytest.mark.timeout(600),
]
KIMG = 40
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
        self.env |= {
            "HOME": str(self.root),
            "RAY_TMPDIR": str(self.root),
            "DISTGAN_CACHE": str(caches / "decoded"),
            "OMP_NUM_THREADS": "1",
        }
        self._started = []

    def start(self, launcher=("-m", "distgan"), **changes):
        words = [w for k, v in (WORDS | changes).items() for w in (f"--{k.replace('_', '-')}", str(v))]
        process = subprocess.Popen(
            [sys.executable, *launcher, "train", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.root,
            env=self.env,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def finish(self, process, timeout=250):
        """(exit status, what was said, seconds it took from now)."""
        start = time.monotonic()
        try:
            said, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end(process)
            pytest.fail(f"no end after {timeout} s; it said:\n{process.communicate(timeout=20)[0]}")
        return process.returncode, said, time.monotonic() - start

    def train(self, *launcher, **changes):
        return self.finish(self.start(*launcher, **changes))

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
                    commands[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )

    def descends(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return [(pid, command) for pid, command in commands.items() if descends(pid)]


def listening(root):
    """(address, port, command) of every TCP socket on which `root` and what descends from it listen, in the kernel's
    hexadecimal.
    """
    open_at = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="utf-8").splitlines()[1:]:
                words = line.split()
                if words[3] == "0A":
                    open_at[f"socket:[{words[9]}]"] = tuple(words[1].split(":"))
    found = []
    for pid, command in [(root, "driver"), *below(root)]:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    where = open_at.get(os.readlink(descriptor))
                    found += [(*where, command)] if where else []
    return found


def is_loopback(address):
    """127.x.x.x, ::1, or the former written as IPv6; each 32-bit word in the byte order of the machine (x86, ARM:
    reversed).
    """
    return (
        address[-2:] == "7F"
        if len(address) == 8
        else address in ("0" * 24 + "01000000", f"{'0' * 16}FFFF0000{address[-8:-2]}7F")
    )


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
def half(place):
    """Half of the run, on Ray: (exit status, what was said, the run's folder)."""
    code, said, _ = place.train(name="run", kimg=KIMG / 2)
    return code, said, place.run("run")


def test_a_run_on_two_workers_leaves_everything_behind(place, half):
    code, said, folder = half
    assert code == 0, said
    assert "2 workers with 1 CPU each" in said
    assert f"complete: {status_of(folder)['kimg']:g} kimg" in said
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

    code, said, seconds = place.train(name="run", kimg=KIMG / 2)  # the same command again
    assert code == 0
    assert said.startswith("already complete: ")
    assert seconds < 60


def test_more_workers_than_there_is_room_for_are_refused_at_once(place):
    code, said, seconds = place.train(name="many", workers=64)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("distgan: workers = 64: there are ")
    assert "allowed: auto, or 1 to " in said
    assert seconds < 90


def test_a_larger_budget_goes_on_and_a_killed_worker_changes_nothing(place, half):
    """Rule 4 of the house under Ray: the weights are those of an undisturbed run, bit for bit."""
    _, _, folder = half
    before = status_of(folder)["kimg"]
    process = place.start(name="run")
    deadline = time.monotonic() + 200
    while not before + 1 < status_of(folder).get("kimg", 0) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    workers = [pid for pid, command in below(process.pid) if "RayTrainWorker" in command]
    at = status_of(folder).get("kimg", 0)
    assert len(workers) == 2, f"found {workers} at {at} kimg"
    assert before < at < KIMG - 2, "no moment to kill a worker in"
    sockets = listening(process.pid)
    assert len(sockets) > 5, "Ray's own processes listen, as the workers do for each other"
    # torch's rendezvous store, in rank 0, listens everywhere, as under torchrun; of Ray's own processes none does
    outward = [command for address, _, command in sockets if not is_loopback(address)]
    assert len(outward) <= 1
    assert all("RayTrainWorker" in command for command in outward)
    os.kill(max(workers), signal.SIGKILL)
    code, said, _ = place.finish(process)
    assert code == 0, said
    assert f"complete: {status_of(folder)['kimg']:g} kimg" in said
    assert status_of(folder)["state"] == "complete"

    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "distgan")
    code, said, _ = place.finish(place.start(launcher, name="calm", engine="local"))
    assert code == 0, said
    calm, hurt = (CheckpointStore(Folder(place.run(name))).newest() for name in ("calm", "run"))
    assert calm[0] == hurt[0] == load_config(overrides=WORDS).total_images
    for part in ("G", "D", "ema"):
        for name, tensor in calm[1][part].items():
            assert torch.equal(tensor, hurt[1][part][name]), f"{part} {name}"

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [line["nimg"] for line in lines if "event" not in line]
    assert numbers == sorted(set(numbers))  # each point of the curves once
    assert [line["kimg"] for line in lines if "fid" in line] == [before, numbers[-1] / 1000]


def test_ray_s_result_shows_the_run(place, half):
    """Metrics and the checkpoint that lies in storage, as of anyone's run."""
    result = Result.from_path(str(place.run("run")))
    assert result.metrics["kimg"] == pytest.approx(status_of(place.run("run"))["kimg"])
    assert result.metrics["fid"] > 0
    assert Path(result.checkpoint.path).parent == place.run("run") / "checkpoints"
    assert CheckpointStore(Folder(place.run("run"))).load(int(Path(result.checkpoint.path).name))


def test_no_process_is_left(place, half):
    for process in place._started:
        assert process.poll() is not None
        assert below(process.pid) == []
    left = [c for p in Path("/proc").iterdir() if p.name.isdigit() for c in [command(p)] if str(place.root) in c]
    assert left == []


def command(process):
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
