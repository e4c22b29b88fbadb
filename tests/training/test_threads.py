"""What a training process asks of the system before torch is imported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

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


def test_a_shorter_spin_unless_someone_has_chosen(monkeypatch):
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(variable, "set, so that it is restored afterwards")
        monkeypatch.delenv(variable)
    share_cores()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 300_000
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_cores()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    share_cores()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_available_cpus_are_those_of_this_process():
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
