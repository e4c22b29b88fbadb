"""How a training process uses the machine's cores and memory. To be called before torch is imported: OpenMP reads it
when loaded.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def share_cores() -> None:
    """Choose how long this process's threads spin while they wait for each other, before OpenMP reads it.

    GNU OpenMP's threads spin for about 300,000 rounds at the end of every parallel region. On idle cores spinning pays;
    where another process has one of them, each operation waits for that process's time slice. Images a second of the
    default run on 2 cores, idle and with one of them taken (`python jobs/benchmark.py busy --env GOMP_SPINCOUNT=N`):
    2,075 and 275 with 50,000 rounds, 2,062 and 457 with 10,000, 1,561 and 1,371 with 200. So it is 200 on a machine
    that is at work when the process starts, else 10,000. No result depends on it. Whoever has set the variables keeps
    them.
    """
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = "200" if is_busy(available_cpus()) else "10000"


def is_busy(threads: int, looks: int = 8, pause_s: float = 0.005) -> bool:
    """Whether so many threads would have to share this machine's cores with other processes, by the median of some
    looks at how many processes run (Linux; elsewhere False).
    """
    try:
        running = []
        for _ in range(looks):
            running.append(_running_elsewhere())
            time.sleep(pause_s)
    except (OSError, ValueError, StopIteration):
        return False
    return statistics.median(running) + threads > (os.cpu_count() or 1)


def _running_elsewhere() -> int:
    """Threads of other processes of this machine that run or could: /proc/stat's procs_running without our own."""
    told = next(
        line for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines() if line.startswith("procs_running")
    )
    own = [
        Path(task, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        for task in Path("/proc/self/task").iterdir()
    ]
    return int(told.split()[1]) - own.count("R")


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
