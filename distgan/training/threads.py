"""How a training process uses the machine's cores and memory. To be called before torch is imported: OpenMP reads it
when loaded.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def share_cores() -> None:
    """Let idle threads sleep after a shorter spin, so that on a busy machine a run slows down by its share and not a
    hundredfold.

    GNU OpenMP's threads spin for about 300,000 rounds at the end of every parallel region by default. When other
    processes have the cores, each operation then waits for a whole time slice of the scheduler: on 2 busy cores 21
    images a second were seen where 480 and more came with 20,000 rounds. 50,000 costs nothing on idle cores, where
    1,000 costs a third. Whoever has set the variables keeps them.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "50000")


def available_cpus() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Keep freed memory for the next step, instead of giving it back to the system and faulting it in again.

    glibc returns the top of a heap, and large blocks at once. In a training process that was up to 80,000 page faults a
    second, and in three pairs of runs 5, 5 and 8 % of its images. Blocks above 32 MiB, the most that glibc allows here,
    are returned as before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc
        for parameter, value in ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20)):
            mallopt(parameter, value)
