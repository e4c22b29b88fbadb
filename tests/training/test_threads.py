"""What a training process asks of the system before torch is imported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgan.training import threads
from distgan.training.threads import available_cpus, share_cores

# Steps that free 32 MiB at a time, in a thread as Ray's workers have it: page faults after the first ones
STEPS = """
import resource, sys, threading
from distgan.training.threads import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def step():
    blocks = [bytearray(8 << 20) for _ in range(4)]
def loop():
    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=loop)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_kept_memory_is_not_faulted_in_again():
    def faults(how):
        return int(
            subprocess.run(
                [sys.executable, "-c", STEPS, how], capture_output=True, check=True, timeout=60, text=True
            ).stdout
        )

    kept, given_back = faults("keep"), faults("as it is")
    assert given_back > 20 * 1000  # the test shows something
    assert kept < given_back / 20


@pytest.mark.parametrize(("running", "spin"), [(0, 10000), (1, 200), (8, 200)])
def test_threads_spin_less_on_a_machine_that_is_at_work(monkeypatch, running, spin):
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(variable, "set, so that it is restored afterwards")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(threads, "_running_elsewhere", lambda: running)
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == str(spin)


def test_whoever_has_chosen_keeps_it(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_part_of_a_large_machine_is_not_taken_for_a_busy_one(monkeypatch):
    """In a container with 2 of 64 cores /proc tells of all 64."""
    monkeypatch.setattr(threads, "_running_elsewhere", lambda: 40)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert not threads.is_busy(2)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="looks at /proc")
def test_processes_that_run_are_counted():
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        time.sleep(0.5)
        assert threads.is_busy(os.cpu_count() or 1)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_available_cpus_are_those_of_this_process():
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
