"""How torch's CPU threads wait for each other. To be called before torch is imported: OpenMP reads it when it is loaded."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let idle threads sleep after a short spin, so that a run on a busy machine slows down by its share and not a hundredfold.

    GNU OpenMP's threads spin for about 300,000 rounds at the end of every parallel region by default. When another process has
    one of the cores, each operation then waits for a whole time slice of the scheduler: seen on 2 cores with one more busy
    process, 21 images a second instead of 1,300. Whoever has set the variables keeps them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def available_cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
