"""`memory`: what a worker holds, stage by stage, and what its workers share."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import print_table, write_found
from benchmarks.parts import read_settings

MIB = 2**20
KINDS = {
    "RayTrainWorker": "worker",
    "SynchronizationActor": "Ray's synchroniser",
    "IDLE": "Ray's idle worker",
    "gcs_server": "Ray's gcs_server",
    "DashboardAgent": "Ray's agent",
    "RuntimeEnvAgent": "Ray's second agent",
    "log_monitor": "Ray's log monitor",
    "dashboard": "Ray's dashboard",
    "raylet": "Ray's raylet",
    "monitor": "Ray's monitor",
}
"""What stands in a process's command line -> what it is; the first that fits."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers (default: 1 2)")
    parser.add_argument("--steps", type=int, default=20, help="training steps (default: %(default)s)")
    parser.add_argument(
        "--images",
        type=int,
        default=100_000,
        help="images, 32 x 32 RGB, of a set made for this, 0 = the settings' (default: %(default)s)",
    )
    parser.add_argument(
        "--no-ray", action="store_true", help="leave out the whole run under Ray with all its processes"
    )
    parser.add_argument("--json", metavar="FILE", help="where the figures go (default: benchmark-memory.json)")


def run(options: argparse.Namespace) -> int:
    """Memory of a worker by stage: resident, its share of what is shared, its own; whether workers share the data; all
    of Ray's processes.

    A page of memory that n processes use counts n times in the sum of their resident sets, once in that of their
    proportional sets. What only one process uses is its own: that much comes back when it ends. Linux.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise SystemExit("memory: needs Linux's /proc/PID/smaps_rollup")
    from benchmarks.workers import Group

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="distgan-benchmark-") as place:
        made = {"data.name": make_set(Path(place), options.images)} if options.images else {}
        config = read_settings(options, **made)
        for workers in options.workers:
            with Group(config.model_dump(mode="json"), workers, 1, env={"DISTGAN_CACHE": f"{place}/cache"}) as group:
                found[str(workers)] = by_stage(group, options.steps)
                print(f"{workers} worker(s) measured", file=sys.stderr, flush=True)
        show(found, config)
        if not options.no_ray:
            found["ray"] = under_ray(config, Path(place))
            show_processes(found["ray"])
    write_found(options, "memory", found)
    return 0


def make_set(place: Path, images: int) -> str:
    """A .npy of so many images 32 x 32 RGB, of which the last two thirds repeat: what is in them does not matter to
    memory.
    """
    import numpy as np

    file = place / "images.npy"
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(images, 3, 32, 32))
    some = np.random.default_rng(0).integers(0, 256, (min(images, 4096), 3, 32, 32), dtype=np.uint8)
    for start in range(0, images, len(some)):
        array[start : start + len(some)] = some[: images - start]
    array.flush()
    return str(file)


def by_stage(group: Any, steps: int) -> dict[str, Any]:
    """{"stages": stage -> one footprint a worker, "data": bytes and what of it is mapped in each worker}."""
    stages: dict[str, list[dict[str, Any]]] = {}

    def note(stage: str) -> None:
        stages[stage] = group.ask("memory", reset=True)

    group.ask("start")
    note("imports")
    data = group.ask("open")[0]
    note("data open")
    group.ask("read_all")
    note("all images read")
    mapped = group.ask("mapped", file=data["file"]) if data["file"] else []
    group.ask("build")
    note("nets")
    group.ask("train", steps=steps)
    note("training")
    highest = group.ask("save")
    note("checkpoint")
    for now, during in zip(stages["checkpoint"], highest, strict=True):
        now |= {key: max(now[key], during.get(key, 0)) for key in ("rss", "pss", "uss")}
    return {"stages": stages, "data": {"bytes": data["bytes"], "file": data["file"], "mapped": mapped}}


def under_ray(config: Any, place: Path) -> dict[str, Any]:
    """A run of one worker under Ray, stopped after some training: the highest memory of each of its processes, by
    kind.
    """
    import yaml

    from distgan.config import load_config

    settings = {
        "engine": "ray",
        "workers": 1,
        "storage": str(place),
        "name": "memory",
        "kimg": 1000,
        "log.every_kimg": 0.25,
    }
    file = place / "memory.yaml"
    file.write_text(
        yaml.safe_dump(load_config(base=config.model_dump(mode="json"), overrides=settings).model_dump(mode="json"))
    )
    said = place / "said"
    with open(said, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "distgan", "train", "--config", str(file)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DISTGAN_CACHE": f"{place}/cache"},
        )
    try:
        log = place / "memory" / "metrics.jsonl"
        found = watch_tree(
            process, 300, until=lambda: log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 4
        )
    except BaseException:
        process.terminate()
        process.wait(timeout=60)
        raise
    if process.returncode != 130:  # stopped, with a last checkpoint
        raise SystemExit(
            f"the run under Ray failed with status {process.returncode}:\n{said.read_text(encoding='utf-8')[-3000:]}"
        )
    return found


def watch_tree(
    process: subprocess.Popen[Any], timeout_s: float, until: Callable[[], bool], every_s: float = 0.5
) -> dict[str, Any]:
    """Highest memory of a process and of each process below it, until it ends, and of all of them together at one time.
    It is asked to end when `until` says so.
    """
    from benchmarks.measuring import processes_below

    kinds: dict[int, str] = {}
    highest: dict[int, dict[str, int]] = {}
    together, asked = 0, False
    begun = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - begun > timeout_s:
            raise SystemExit(f"the run took more than {timeout_s:g} s")
        total = 0
        for pid in processes_below(process.pid):
            try:
                now = footprint(pid)
            except (OSError, ValueError):
                continue  # it ended meanwhile
            kinds[pid] = _kind(pid, process.pid) or kinds.get(pid, "?")
            total += now["pss"]
            before = highest.get(pid, {})
            highest[pid] = {key: max(now[key], before.get(key, 0)) for key in ("rss", "pss", "uss")}
        together = max(together, total)
        if not asked and until():
            process.terminate()
            asked = True
        time.sleep(every_s)
    return {"processes": [{"kind": kinds[pid], **highest[pid]} for pid in highest], "together_pss": together}


def _kind(pid: int, root: int) -> str:
    """What a process is, as a person would call it."""
    if pid == root:
        return "driver"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
    for mark, name in KINDS.items():
        if mark.lower() in words[:400].lower():
            return name
    return words.split(" ")[0].rpartition("/")[2][:30] or "?"


def show(found: dict[str, Any], config: Any) -> None:
    """The tables of stages and of the data, for each number of workers."""
    rows = []
    for workers, result in found.items():
        for stage, footprints in result["stages"].items():
            cells = [_mib(statistics.fmean(f[key] for f in footprints)) for key in ("rss", "pss", "uss", "peak_rss")]
            rows.append([f"{_count(workers)}: {stage}", *cells])
    print(f"\nMiB a worker (mean of the workers), one thread each, {config.model.name}, batch {config.batch_size}")
    print_table(["", "resident", "proportional", "own", "highest resident"], rows)
    rows = []
    for workers, result in found.items():
        data = result["data"]
        for rank, pages in enumerate(data["mapped"]):
            rows.append([f"{_count(workers)}: rank {rank}", *(_mib(pages[key]) for key in ("rss", "pss", "uss"))])
        if not data["mapped"]:
            rows.append([f"{_count(workers)}: no file is mapped, each holds a copy", "-", "-", "-"])
    size = next((result["data"]["bytes"] for result in found.values()), 0)
    print(f"\nMiB of the data ({_mib(size)} MiB) in each worker, once all images were read")
    print_table(["", "resident", "proportional", "own"], rows)


def show_processes(found: dict[str, Any]) -> None:
    """The table of Ray's processes."""
    processes = sorted(found["processes"], key=lambda p: -p["uss"])
    rows = [[p["kind"], *(_mib(p[key]) for key in ("rss", "pss", "uss"))] for p in processes]
    print("\nhighest MiB of each process of a run with one worker under Ray")
    print_table(["", "resident", "proportional", "own"], rows)
    print(f"all together at one time, pages counted once: {_mib(found['together_pss'])} MiB")


def _count(workers: str) -> str:
    return f"{workers} worker{'' if workers == '1' else 's'}"


def _mib(size: float) -> str:
    return f"{size / MIB:,.1f}"


# ---------------------------------------------------------------------------------------------------------------------
# What the kernel says


def footprint(pid: int) -> dict[str, Any]:
    """Bytes of a process: rss (resident), pss (its share of shared pages), uss (its own), peak_rss (highest since the
    last reset).
    """
    found = _sums(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8"))
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    peak = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return {**found, "peak_rss": peak}


def mapping(pid: int, file: str) -> dict[str, int]:
    """The same of those pages alone that are a file's."""
    wanted, inside, lines = str(Path(file).resolve()), False, []
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split(" ", 1)[0]
        if not first.endswith(":"):  # the head of a mapping: addresses, rights, offset, device, inode, file
            inside = line.endswith(wanted)
        elif inside:
            lines.append(line)
    return _sums("\n".join(lines))


def _sums(smaps: str) -> dict[str, int]:
    names = {"Rss:": "rss", "Pss:": "pss", "Private_Clean:": "uss", "Private_Dirty:": "uss", "Private_Hugetlb:": "uss"}
    found = {"rss": 0, "pss": 0, "uss": 0}
    for line in smaps.splitlines():
        name, _, rest = line.partition(" ")
        if name in names:
            found[names[name]] += int(rest.split()[0]) * 1024
    return found


def reset_peak() -> None:
    """Let this process's highest resident memory be counted from now on."""
    with contextlib.suppress(OSError):  # not allowed in some containers: peaks then are those since the start
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


class Watch:
    """The highest memory of a process while something goes on, by looking again and again."""

    def __init__(self, pid: int, every_s: float = 0.005) -> None:
        self.pid, self.every_s, self.highest = pid, every_s, dict[str, int]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._note()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._note()

    def _note(self) -> None:
        now = footprint(self.pid)
        self.highest = {key: max(now[key], self.highest.get(key, 0)) for key in ("rss", "pss", "uss", "peak_rss")}

    def _look(self) -> None:
        while not self._ended.wait(self.every_s):
            self._note()
