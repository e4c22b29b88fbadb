"""A run that is broken again and again ends as if nothing had happened. Minutes: `pytest -m slow tests/chaos`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "jobs" / "chaos.py"


@pytest.fixture
def folder():
    """A short path: Ray's sockets lie below it, and a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as name:
        yield Path(name)


def broken(folder, only, seed=1):
    """What the chaos job found: one fault of each kind."""
    command = [
        sys.executable,
        str(CHAOS),
        "--faults",
        str(len(only)),
        "--only",
        ",".join(only),
        "--seed",
        str(seed),
        "--work",
        str(folder),
    ]
    said = subprocess.run(command, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, timeout=1700)
    assert said.returncode == 0, said.stdout + said.stderr
    result = json.loads((folder / "result.json").read_text())
    assert result["problems"] == []
    assert sorted(row["fault"] for row in result["rows"]) == sorted(only)


@pytest.mark.timeout(600)
def test_a_cluster_that_lost_its_gcs_leaves_nothing_behind(folder):
    # Helpers of Ray's would wait for it for a minute
    broken(folder, ["gcs killed"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_survives_what_its_machine_can_do_to_it(folder):
    broken(
        folder,
        ["worker killed", "raylet killed", "gcs killed", "driver killed", "rendezvous breaks", "everything terminated"],
    )
