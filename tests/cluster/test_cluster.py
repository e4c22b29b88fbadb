"""The whole way on three hosts: submit, train, lose a host and get it back, tokens, doctor. One cluster for all, two to
three minutes.
"""

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

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3"}

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONGER = {
    "workers": 2,
    "kimg": 6.4,
    "checkpoint.every_kimg": 0.64,
    "checkpoint.pause_s": 0,
    "log.every_kimg": 0.32,
    "log.samples_every_kimg": 6.4,
    "metrics.every_kimg": 6.4,
    "ray.start_timeout_s": 120,
}
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
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "distgan",
        "train",
        "--config",
        str(file),
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"OMP_NUM_THREADS": "1", "DISTGAN_CACHE": lab.env["DISTGAN_CACHE"]}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_outlives_the_loss_of_a_host(lab, checkout, tiny: Callable[..., RunConfig], tmp_path):
    config = tiny(engine="ray", storage=str(lab.shared), name="run", **LONGER)
    train_undisturbed(lab, config, tmp_path)
    (checkout / "run.yaml").write_text(dump_config(config))

    run, log = lab.shared / "run", lab.folder / "submit.log"
    words = ["submit", "train", "--address", lab.url, "--working-dir", str(checkout), "--config", "run.yaml"]
    job = lab.begin(*words, log=log)
    try:
        until = time.monotonic() + 240
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
        assert job.wait(240) == 0, log.read_text()
    finally:
        if job.poll() is None:
            job.kill()
    ended = json.loads((run / "status.json").read_text())
    assert ended["state"] == "complete"
    assert ended["nimg"] == 6400
    assert equal(final_state(run), final_state(tmp_path / "plain"))


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a person reads."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("distgan: ")]
    assert done.returncode != 0
    assert len(lines) == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN_PATH": None}, "asks for a token and none was found"),
        ({"RAY_AUTH_TOKEN_PATH": None}, "asks for a token and none was found"),
        ({"RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}, "refuses this token (from $RAY_AUTH_TOKEN)"),
    ],
)
def test_no_token_and_a_wrong_one(lab, env, said):
    assert said in refusal(lab.distgan("submit", "--status", "--address", lab.url, env=env))


def test_an_address_that_is_not_there(lab):
    assert "http://10.77.0.9:8265: cannot be reached" in refusal(
        lab.distgan("submit", "--status", "--address", "10.77.0.9")
    )


def test_a_full_disk_on_submit(lab, checkout):
    """`ip netns exec` gives the command mounts of its own, so this one ends with it."""
    small = lab.folder / "small"
    small.mkdir()
    (checkout / "new.txt").write_text("what the cluster has already would not be packed again")
    words = ["submit", "train", "--address", lab.url, "--working-dir", str(checkout), "--storage", str(lab.shared)]
    script = f'mount -t tmpfs -o size=64k none {small} && exec "$@"'
    done = lab.run("a", "sh", "-c", script, "sh", sys.executable, "-m", "distgan", *words, env={"TMPDIR": str(small)})
    assert "the disk is full here" in refusal(done)


def test_the_doctor_finds_nothing_wrong(lab):
    done = lab.distgan(
        "doctor", "--address", f"{ADDRESSES['a']}:6379", "--storage", str(lab.shared), "--mib", "4", "--json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert [node["interface"] for node in found["nodes"].values()] == ["eth0"] * 3
    assert all(abs(node["skew_s"]) < 1 for node in found["nodes"].values())
    assert found["exchange"]["workers"] == 2
    assert found["exchange"]["bus_bytes_per_s"] > 1e5


def test_a_job_can_be_looked_at_and_stopped_and_shows_its_figures(lab, checkout, tiny: Callable[..., RunConfig]):
    config = tiny(engine="ray", storage=str(lab.shared), name="long", **{**LONGER, "kimg": 10000})
    (checkout / "long.yaml").write_text(dump_config(config))
    words = [
        "submit",
        "train",
        "--address",
        lab.url,
        "--working-dir",
        str(checkout),
        "--config",
        "long.yaml",
        "--no-wait",
    ]
    done = lab.distgan(*words, "--job-id", "long-1")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "long-1"), done.stdout + done.stderr
    run, log = lab.shared / "long", lab.folder / "attach.log"
    attached = lab.begin("submit", "--attach", "long-1", "--address", lab.url, log=log)
    until = time.monotonic() + 240
    while nimg(run) < 1300:
        assert attached.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    assert "RUNNING" in lab.distgan("submit", "--status", "long-1", "--address", lab.url).stdout

    read = "import urllib.request as u; print(u.urlopen('http://{}:8090/metrics').read().decode())"
    seen = ""
    while "ray_distgan_kimg{" not in seen and time.monotonic() < until:
        seen = "".join(lab.run("a", sys.executable, "-c", read.format(ADDRESSES[host])).stdout for host in "bc")
    assert 'run="long"' in seen
    assert {"ray_distgan_healthy", "ray_distgan_images_per_s", "ray_distgan_workers"} <= {
        line.partition("{")[0] for line in seen.splitlines()
    }

    assert lab.distgan("submit", "--stop", "long-1", "--address", lab.url).returncode == 0
    assert attached.wait(200) == 130, log.read_text()
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "stopped"
    assert (run / "checkpoints" / f"{status['nimg']:012d}" / "manifest.json").exists()
    assert lab.token.read_text() not in log.read_text() + "".join(
        p.read_text(errors="replace") for p in run.rglob("*") if p.is_file()
    )
