"""An elastic run on a cluster of two nodes: one is lost, comes back, and is taken away with notice. Minutes: `pytest -m
slow`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgan.storage import Folder
from distgan.training.logs import read_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
INTERVAL = 20_000
SETTINGS = {
    "workers": "{min: 1, max: 2}",
    "kimg": 100_000,
    "batch-size": 63,
    "data.limit": 1024,
    "model.name": "mlp",
    "model.latent-dim": 16,
    "model.g-width": 16,
    "model.d-width": 16,
    "metrics.every-kimg": 100_000,
    "log.every-kimg": 1,
    "log.samples-every-kimg": 100_000,
    "checkpoint.every-kimg": INTERVAL / 1000,
    "ray.cpus-per-worker": 1,
    "ray.gpus-per-worker": 0,
    "ray.start-timeout-s": 20,
    "ray.max-failures": -1,
    "name": "elastic",
}


@pytest.fixture
def nodes(monkeypatch):
    """A Ray cluster of this process: a head with one CPU. Other nodes can be added to it and removed."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name, value in {
        "initial_delay_ms": 1000,
        "period_ms": 1000,
        "timeout_ms": 2000,
        "failure_threshold": 3,
    }.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    yield cluster
    cluster.shutdown()


class Run:
    def __init__(self, address: str, storage: Path) -> None:
        self.folder = Folder(storage).child("elastic")
        words = [
            w
            for key, value in {**SETTINGS, "storage": storage, "ray.address": address}.items()
            for w in (f"--{key}", str(value))
        ]
        self.log = storage.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "distgan", "train", *words], stdout=log, stderr=log)

    def status(self):
        return read_status(self.folder)

    def until(self, question, what, limit_s=300.0):
        begin = time.monotonic()
        while not question(self.status()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - begin < limit_s, f"{what}: not within {limit_s} s\n{self.log.read_text()}"
            time.sleep(0.1)
        print(f"{what}: {time.monotonic() - begin:.1f} s, {self.status().get('writer')}")
        return self.status()

    def restarted(self, before):
        """With the status before, a question: other workers train, and have come further than those before."""
        return lambda now: now.get("writer") != before["writer"] and now["nimg"] > before["nimg"]


def test_a_run_shrinks_grows_and_hears_notices(nodes, tmp_path):
    second = nodes.add_node(num_cpus=1, object_store_memory=10**8)
    run = Run(nodes.address, tmp_path / "runs")
    try:
        before = run.until(lambda now: now.get("nimg", 0) > 1.5 * INTERVAL and now["workers"] == 2, "two workers train")

        nodes.remove_node(second, allow_graceful=False)
        before = run.status()
        after = run.until(run.restarted(before), "one is left, and goes on")
        assert after["workers"] == 1
        assert before["nimg"] - after["writer"]["from_nimg"] <= INTERVAL + 3000

        second = nodes.add_node(num_cpus=1, object_store_memory=10**8)
        after = run.until(lambda now: now.get("workers") == 2 and now["nimg"] > after["nimg"], "two again")

        # Notice: the node goes in 15 s. A checkpoint is made at once, out of turn, and training goes on from there.
        run.until(lambda now: now["nimg"] % INTERVAL > INTERVAL // 4 and now["workers"] == 2, "between two checkpoints")
        before = run.status()
        drain(nodes.address, second, 15)
        run.until(
            lambda now: any(int(n) % INTERVAL > 2000 for n in run.folder.list("checkpoints") if n.isdigit()),
            "checkpoint out of turn",
            14,
        )
        run.until(run.restarted(before), "the other node goes on alone")
        assert run.status()["workers"] == 1

        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(120) == 130
        assert run.status()["state"] == "stopped"
        assert f"distgan resume elastic --storage '{tmp_path / 'runs'}'" in run.log.read_text()
    finally:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()


def drain(address, node, seconds):
    from ray._raylet import GcsClient

    preemption = 2  # autoscaler.proto: DRAIN_NODE_REASON_PREEMPTION
    accepted, reason = GcsClient(address=address).drain_node(
        node.node_id, preemption, "the spot instance is reclaimed", int((time.time() + seconds) * 1000)
    )
    assert accepted, reason
