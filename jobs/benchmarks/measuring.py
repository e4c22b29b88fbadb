"""Measuring contenders: processes and their processor time, interleaved rounds, tables and files."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class CPUMeter:
    """Processor time of a process and all below it, sampled, so that it can be told for a window of time. Linux."""

    def __init__(self, pid: int, every_s: float = 1.0) -> None:
        self.pid, self.every_s = pid, every_s
        self._seconds: dict[int, float] = {}
        self._course: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CPUMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, start: float, stop: float) -> float | None:
        """Seconds of processor time from `start` to `stop` (time.time())."""
        if len(self._course) < 2:
            return None
        import numpy as np

        times, totals = zip(*self._course, strict=True)
        return float(np.interp(stop, times, totals) - np.interp(start, times, totals))

    def _watch(self) -> None:
        while not self._ended.wait(self.every_s):
            try:
                self._seconds |= _cpu_seconds_below(self.pid)  # those that ended keep their last number
            except OSError:
                return
            self._course.append((time.time(), sum(self._seconds.values())))


def _cpu_seconds_below(root: int) -> dict[int, float]:
    ticks = os.sysconf("SC_CLK_TCK")
    return {pid: (int(fields[11]) + int(fields[12])) / ticks for pid, fields in processes_below(root).items()}


def processes_below(root: int) -> dict[int, list[str]]:
    """A process and all that descend from it: pid -> the fields of /proc/PID/stat after the name (state, parent,
    ...).
    """
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found[int(entry)] = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile

    def belongs(pid: int) -> bool:
        while pid != root and pid in found:
            pid = int(found[pid][1])
        return pid == root

    return {pid: fields for pid, fields in found.items() if belongs(pid)}


def run_process(command: list[str], env: dict[str, str], timeout_s: float) -> tuple[str, CPUMeter]:
    """What a command printed, and the meter that watched it. SystemExit with its words if it fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}
    )
    with CPUMeter(process.pid) as meter:
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except BaseException:
            process.terminate()  # a run writes a checkpoint and ends its workers
            try:
                process.wait(timeout=60)
            finally:
                process.kill()
            raise
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}:\n{said}")
    return said, meter


# ---------------------------------------------------------------------------------------------------------------------
# Rounds, tables, files


def in_turn(
    contenders: dict[str, Callable[[], T]], count: int, show: Callable[[T], str] | None = None
) -> dict[str, list[T]]:
    """A B C, C B A, A B C, ...: what each contender gave, once a round; with `show`, a line for each as it ends."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(count):
        for name in contenders if number % 2 == 0 else reversed(contenders):
            found[name].append(contenders[name]())
            if show is not None:
                print(f"round {number + 1} of {count}: {name}: {show(found[name][-1])}", file=sys.stderr, flush=True)
    return found


def spread(values: list[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} - {max(values):,.{digits}f})"


def print_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * w for w in widths], *rows]:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )


def write_found(options: argparse.Namespace, command: str, found: Any, key: str = "found", **more: Any) -> None:
    """All that was found, with the options and the machine, as JSON: to --json, else to benchmark-COMMAND.json."""
    import torch

    import distgan

    file = options.json or f"benchmark-{command}.json"
    shown = {k: v for k, v in vars(options).items() if isinstance(v, str | int | float | list | type(None))}
    content = {
        "command": command,
        "options": shown,
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "gpus": torch.cuda.device_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "distgan": distgan.__version__,
            "load_average": os.getloadavg(),
        },
        key: found,
        **more,
    }
    Path(file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\n{file}")
