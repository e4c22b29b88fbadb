"""The command under test, and the processes that come of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSIDE = Path(__file__).resolve().with_name("inside")
INTERVAL_KIMG = 10.0
SETTINGS = {
    "workers": 2,
    "batch-size": 64,
    "seed": 0,
    "data.limit": 1024,
    "model.name": "mlp",
    "model.latent-dim": 16,
    "model.g-width": 16,
    "model.d-width": 16,
    "training.ema-half-life-kimg": 5,
    "metrics.names": "fid",
    "metrics.every-kimg": 100,
    "metrics.samples": 256,
    "metrics.final-samples": 256,
    "checkpoint.every-kimg": INTERVAL_KIMG,
    "checkpoint.pause-s": 0,
    "log.every-kimg": 1,
    "log.samples-every-kimg": 50,
    "log.grid": 16,
    "ray.cpus-per-worker": 1,
    "ray.gpus-per-worker": 0,
    "ray.max-failures": -1,
}


@dataclass
class Process:
    pid: int
    parent: int
    started: int
    command: str


def processes() -> dict[int, Process]:
    """Every process of this machine that is not a zombie."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found[int(entry.name)] = Process(int(entry.name), int(fields[1]), int(fields[19]), command)
    return found


class Command:
    """`distgan train` for one run, started as often as it takes, and the processes that came of it."""

    def __init__(self, name: str, storage: str, kimg: float, work: Path) -> None:
        from distgan.storage import Folder

        self.storage = storage
        self.folder = Folder(storage).child(name)
        self.switches, self.log = work / "switches", work / f"{name}.log"
        self.temporary = work / "tmp"
        self.switches.mkdir(exist_ok=True)
        settings = {**SETTINGS, "name": name, "storage": storage, "kimg": kimg}
        self.arguments = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{INSIDE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "DISTGAN_CHAOS": str(self.switches),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
            "DISTGAN_COLLECTIVE_TIMEOUT_S": "60",
        }
        self.temporary.mkdir(exist_ok=True)
        self.driver: subprocess.Popen[bytes] | None = None
        self.ours: dict[tuple[int, int], Process] = {}
        self.last: dict[str, Any] = {}
        self._looked = 0.0

    def start(self) -> None:
        """Run the command, again if it had ended; RuntimeError if it was refused before the run existed."""
        if self.driver is not None and self.driver.poll() == 2 and not self.look():
            raise RuntimeError(f"the command was refused; its words are at the end of {self.log}")
        self.driver = self.spawn()

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distgan", "train", *self.arguments],
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def look(self, *, closely: bool = True) -> dict[str, Any]:
        """Take note of the processes (not closely: if the last time was a while ago), and return the run's status."""
        from distgan.training.logs import read_status

        self.last = read_status(self.folder) or self.last
        if not self.folder.is_local:  # there the status is seconds behind; the workers' own copy of the log is not
            self.last = {**self.last, "nimg": max(int(self.last.get("nimg", 0)), self._logged())}
        if not closely and time.monotonic() - self._looked < 0.5:
            return self.last
        self._looked = time.monotonic()
        now = processes()
        roots = {self.driver.pid} if self.driver and self.driver.poll() is None else set()
        known = roots | {pid for (pid, started) in self.ours if pid in now and now[pid].started == started}
        grown = True
        while grown:
            children = {p.pid for p in now.values() if p.parent in known} - known
            known |= children
            grown = bool(children)
        self.ours = {(pid, now[pid].started): now[pid] for pid in known if pid in now}
        return self.last

    def _logged(self) -> int:
        """Images in the last whole line of the present writer's metrics.jsonl, in its temporary folder."""
        pid = self.last.get("writer", {}).get("pid")
        for file in self.temporary.glob(f"distgan-copy-{pid}-*/metrics.jsonl"):
            lines = file.read_bytes().rpartition(b"\n")[0].splitlines()
            return int(json.loads(lines[-1])["nimg"]) if lines else 0
        return 0

    def pids(self, *words: str) -> list[int]:
        """Of the command's living processes, those whose command line holds one of the words."""
        self.look()
        return sorted(p.pid for p in self.ours.values() if any(word in p.command for word in words))

    def workers(self) -> list[int]:
        return self.pids("ray::RayTrainWorker", "ray::RayWorkerWrapper", "ray::TrainWorker")

    def end(self) -> None:
        """End every process of the command that still runs."""
        self.look()
        for process in self.ours.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def switch(self, name: str, on: bool = True) -> None:
        path = self.switches / name
        path.touch() if on else path.unlink(missing_ok=True)
