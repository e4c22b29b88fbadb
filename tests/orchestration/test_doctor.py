"""The doctor's judgement of what nodes say about themselves, and one examination of this machine. Several hosts:
tests/cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from distgan.config import ConfigError
from distgan.orchestration import doctor
from distgan.orchestration.doctor import Findings, as_text, examine, judge_facts

WELL = {
    "name": "a (10.0.0.1)",
    "ray_cpus": 8,
    "ray_gpus": 1,
    "python": "3.11.7",
    "ray": "2.60.0",
    "torch": "2.14.1",
    "distgan": "0.1.0",
    "cuda": "13.0",
    "gpus": ["H100"],
    "interface": "eth0",
    "address": "10.0.0.1",
    "shm_free": 2**32,
    "disk_free": 2**36,
    "files": 65536,
}


def judged(**other) -> Findings:
    found = Findings(nodes={"1": dict(WELL), "2": {**WELL, "name": "b (10.0.0.2)", **other}})
    judge_facts(found)
    return found


def test_equal_and_well_equipped_nodes_are_fine():
    found = judged(python="3.11.2")  # a patch release apart
    assert not found.problems
    assert not found.hints
    assert as_text(found).endswith("nothing is wrong")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"ray": "2.50.0"}, "versions of ray differ: 2.60.0 on a (10.0.0.1); 2.50.0 on b (10.0.0.2)"),
        ({"python": "3.12.1"}, "versions of python differ"),
        ({"distgan": "0.2.0"}, "versions of distgan differ"),
        ({"gpus": []}, "b (10.0.0.2): Ray offers 1 GPUs, PyTorch sees 0 (built for CUDA 13.0); install a driver"),
        ({"disk_free": 2**20}, "free in /tmp, where Ray keeps its files; make room"),
    ],
)
def test_what_stops_a_run_is_a_problem_with_a_way_out(other, said):
    found = judged(**other)
    assert len(found.problems) == 1
    assert said in found.problems[0]
    assert f"problem: {found.problems[0]}" in as_text(found)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"torch": "2.13.0"}, "versions of torch differ"),
        ({"gpus": ["H100"] * 4}, "PyTorch sees 4 GPUs, Ray offers 1; start Ray there with --num-gpus 4"),
        ({"interface": None}, "set GLOO_SOCKET_IFNAME"),
        ({"files": 1024}, "ulimit -n 65536"),
        ({"gpus": ["H100"] * 2, "ray_gpus": 2, "shm_free": 2**26}, "/dev/shm; NCCL wants more"),
    ],
)
def test_what_makes_a_run_slow_is_a_hint(other, said):
    found = judged(**other)
    assert not found.problems
    assert said in found.hints[0]


def test_a_node_that_does_not_answer_is_named(monkeypatch):
    import ray

    def refuse(reference, timeout):
        raise RuntimeError("trace\nray.exceptions.RayActorError: died\nModuleNotFoundError: No module named 'distgan'")

    monkeypatch.setattr(ray, "get", refuse)
    monkeypatch.setattr(ray, "wait", lambda *args, **options: ([], []))
    found = Findings(nodes={"1": dict(WELL)})
    assert doctor._answers(found, {"1": object()}, "does not answer") == {}
    assert found.problems == [
        "a (10.0.0.1): ModuleNotFoundError: No module named 'distgan'; install distgan there, use its image, or run "
        "this as `distgan submit doctor`"
    ]


@pytest.mark.parametrize(
    ("address", "mib", "said"), [("http://h:8265", 1.0, "that is the dashboard"), (None, 0.0, "--mib 0: allowed: > 0")]
)
def test_bad_input(address, mib, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        examine(address, str(tmp_path), mib=mib)


def test_this_machine_is_examined(tmp_path):
    """In a process of its own, as Ray wants to know about tokens before it is imported."""
    command = [sys.executable, "-m", "distgan", "doctor", "--storage", str(tmp_path / "runs"), "--mib", "1", "--json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    (node,) = found["nodes"].values()
    assert node["distgan"]
    assert node["interface"] == "lo"  # a private cluster does not leave the machine
    assert node["write_mib_s"] > 0
    assert abs(node["skew_s"]) < 5
    assert done.returncode == bool(found["problems"])
    assert not any((tmp_path / "runs").glob(".distgan-*"))
