"""How torch's CPU threads wait for each other. To be called before torch is imported: OpenMP reads it when it is loaded."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let idle threads sleep after a shorter spin, so that on a busy machine a run slows down by its share and not a hundredfold.

    GNU OpenMP's threads spin for about 300,000 rounds at the end of every parallel region by default. When other processes have
    the cores, each operation then waits for a whole time slice of the scheduler: on 2 busy cores 21 images a second were seen
    where 480 and more came with 20,000 rounds. 50,000 costs nothing on idle cores, where 1,000 costs a third. Whoever has set
    the variables keeps them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "50000")


def available_cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
