"""Programs that train, side by side on one machine: one goes on for a few seconds while all the others are stopped, in
turn.

Two runs one after the other meet another machine each time, where other work or the clock's frequency comes and goes.
Slices of a few seconds that alternate meet the same one. A program is stopped with all its processes (SIGSTOP), so it
takes nothing from the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_table, processes_below, spread, write_found

SETTLE_S = 0.5
"""Of every slice this much at the beginning is left out: caches fill again."""
START_S, WARMUP_S = 300.0, 3.0

STARTED = 19
"""Which of processes_below's fields says when a process was started."""

Points = list[tuple[float, float]]
"""(time.time(), images seen), in order."""


@dataclass(frozen=True)
class Slice:
    """What one program did in one turn."""

    images_per_s: float
    cpu_s_per_kimg: float  # of all its processes
    beside_per_s: float | None = None  # mean rate of the reference just before and just after


class Program:
    """A command that trains until it is ended; `points` tells how far it is."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], points: Callable[[], Points]) -> None:
        self.name, self.points = name, points
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdout=self._said, stderr=subprocess.STDOUT, env={**os.environ, **env}
        )

    def warm(self) -> None:
        """Until it has trained for a while; SystemExit with its words if it does not come to that."""
        begun = time.monotonic()
        while not (points := self.points()) or points[-1][0] - points[0][0] < WARMUP_S:
            self._alive()
            if time.monotonic() - begun > START_S:
                self.end()
                raise SystemExit(f"{self.name}: no training after {START_S:g} s\n{self._words()}")
            time.sleep(0.2)

    def signal(self, number: int) -> None:
        for pid in processes_below(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def turn(self, seconds: float) -> Slice:
        """Its own time: the images between the first and the last point in it."""
        self._alive()
        cpu = self._cpu_s()
        self.signal(signal.SIGCONT)
        start = time.time()
        time.sleep(seconds)
        self.signal(signal.SIGSTOP)
        stop = time.time()
        inside = [point for point in self.points() if start + SETTLE_S <= point[0] <= stop]
        if len(inside) < 2:
            raise SystemExit(
                f"{self.name}: {len(inside)} log lines in a slice of {seconds:g} s; give more "
                f"--seconds\n{self._words()}"
            )
        (t0, n0), (t1, n1) = inside[0], inside[-1]
        rate = (n1 - n0) / (t1 - t0)
        return Slice(rate, (self._cpu_s() - cpu) / (rate * (stop - start)) * 1000)

    def end(self) -> None:
        """End it, with all its processes: asked first, then by force."""
        below = processes_below(self._process.pid)
        self.signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            below |= processes_below(self._process.pid)
            self._process.kill()
            self._process.wait()
        for pid, fields in below.items():
            now = processes_below(pid).get(pid)
            if now is not None and now[STARTED] == fields[STARTED]:  # still there, and still the same process
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _alive(self) -> None:
        if self._process.poll() is not None:
            raise SystemExit(f"{self.name}: ended with status {self._process.returncode}\n{self._words()}")

    def _words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace")[-4000:]

    def _cpu_s(self) -> float:
        ticks = os.sysconf("SC_CLK_TCK")
        return sum(int(fields[11]) + int(fields[12]) for fields in processes_below(self._process.pid).values()) / ticks


def points_of_a_run(folder: Path) -> Points:
    """From the log of a run."""
    file = folder / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        if file.exists()
        else []
    )
    return [(line["time"], line["nimg"]) for line in lines if "images_per_s" in line]


def points_of_a_loop(file: Path) -> Points:
    """From a file with a line `TIME IMAGES` now and then."""
    if not file.exists():
        return []
    return [
        (float(t), float(n))
        for t, n in (
            line.split() for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
        )
    ]


@contextlib.contextmanager
def started(make: Mapping[str, Callable[[], Program]]) -> Iterator[dict[str, Program]]:
    """All programs, each warmed up alone and stopped; ended in any case."""
    programs: dict[str, Program] = {}
    try:
        for name, start in make.items():
            programs[name] = start()
            programs[name].warm()
            programs[name].signal(signal.SIGSTOP)
            print(f"started: {name}", file=sys.stderr, flush=True)
        yield programs
    finally:
        for program in programs.values():
            program.end()


def in_slices(programs: Mapping[str, Program], reference: str, rounds: int, seconds: float) -> dict[str, list[Slice]]:
    """reference, a, reference, b, reference, ..., and the other way round in every second round."""
    found: dict[str, list[Slice]] = {name: [] for name in programs}
    others = [name for name in programs if name != reference]
    found[reference].append(programs[reference].turn(seconds))
    for number in range(rounds):
        for name in others if number % 2 == 0 else reversed(others):
            mine = programs[name].turn(seconds)
            found[reference].append(programs[reference].turn(seconds))
            before, after = (s.images_per_s for s in found[reference][-2:])
            found[name].append(Slice(mine.images_per_s, mine.cpu_s_per_kimg, (before + after) / 2))
            said = f"{mine.images_per_s:.0f} images/s, {_of(found[name][-1]):.3f} of {reference}"
            print(f"round {number + 1} of {rounds}: {name}: {said}", file=sys.stderr, flush=True)
    return found


def report(
    options: Any, command: str, found: dict[str, list[Slice]], reference: str, *, also: str | None = None
) -> None:
    """The table, with ratios to what the reference did just before and after, and the JSON file.

    also: a second program, if it is among them, to give the others' ratios to, round by round.
    """
    print(f"\n{options.rounds} rounds of slices of {options.seconds:g} s: medians (quartiles)")
    ratios = {name: [_of(s) for s in slices] for name, slices in found.items() if name != reference}
    second = ratios.get(also, []) if also else []
    rows = []
    for name, slices in found.items():
        rates, cpu = [s.images_per_s for s in slices], [s.cpu_s_per_kimg for s in slices]
        rows.append([name, middle(rates), middle(cpu, 2), middle(ratios[name], 3) if name in ratios else "1"])
        if second:
            of_second = [a / b for a, b in zip(ratios.get(name, [1.0] * len(second)), second, strict=True)]
            rows[-1].append(middle(of_second, 2) if name != also else "1")
    print_table(["", "images/s", "CPU s per kimg", f"of {reference}", *([f"of {also}"] if second else [])], rows)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    write_found(
        options,
        command,
        {name: [vars(s) for s in slices] for name, slices in found.items()},
        key="slices",
        median_ratios=medians,
    )


def middle(values: list[float], digits: int = 0) -> str:
    """Median and quartiles; of fewer than four values the lowest and the highest."""
    if len(values) < 4:
        return spread(values, digits)
    low, median, high = statistics.quantiles(values, n=4)
    return f"{median:,.{digits}f} ({low:,.{digits}f} - {high:,.{digits}f})"


def _of(found: Slice) -> float:
    assert found.beside_per_s is not None
    return found.images_per_s / found.beside_per_s
