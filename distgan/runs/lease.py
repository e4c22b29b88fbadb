"""One run, one driver: a lease in the run's folder that its driver renews, and that lapses when the driver is gone.

    lease.json   {"owner": random, "beat": count of renewals, "host", "machine", "pid", "started", "held_s", "written"}

No clocks of different machines are compared. Whoever finds a lease watches it: a `beat` that moves is a living driver,
and the second one is refused; one that stands still for LAPSE_S has no driver any more. On the same machine the
driver's process tells the same at once (pid and start time together, as pids are used again).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distgan.config import ConfigError
from distgan.storage import Folder, process_lives
from distgan.text import duration

FILE = "lease.json"
BEAT_S = 10.0
"""Time between two renewals."""
LAPSE_S = 45.0
"""A lease that has not been renewed for so long is nobody's: four renewals missed."""


class Lease:
    """The right to drive the run in `folder`, from `with Lease(folder):` to the end of the block or of the process.

    Raises ConfigError if another driver has it, with its host, process and for how long. `lost` is set, and `on_lost`
    called from a thread, if another driver took it meanwhile (this one was suspended or cut off from storage for longer
    than LAPSE_S).
    """

    def __init__(
        self,
        folder: Folder,
        on_lost: Callable[[], None] | None = None,
        *,
        beat_s: float = BEAT_S,
        lapse_s: float = LAPSE_S,
        confirm_later: bool = False,
    ):
        """confirm_later: the caller has something else to do before it writes, and calls `confirm` after that."""
        self.confirm_later = confirm_later
        self.folder, self.on_lost = folder, on_lost
        self.beat_s, self.lapse_s = beat_s, lapse_s
        self.owner = uuid.uuid4().hex
        self.lost = threading.Event()
        self._beat, self._since = 0, time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        wait_until_free(self.folder, beat_s=self.beat_s, lapse_s=self.lapse_s)
        self._renew()
        self._taken_at = time.monotonic()
        if not self.confirm_later:
            self.confirm()
        return self

    def confirm(self) -> None:
        """Make sure of the lease. Two drivers may have found it free in the same moment; the one that wrote last has
        it.
        """
        time.sleep(max(0.0, self._taken_at + (0.3 if self.folder.is_local else 2.0) - time.monotonic()))
        there = read_lease(self.folder)
        if there.get("owner") != self.owner:
            raise ConfigError(_refusal(self.folder, there))
        if self.folder.is_local:
            for name in self.folder.list():
                if name.startswith((".lease", ".stop")) and name.endswith(".tmp"):
                    self.folder.remove(name)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(OSError):  # then it lapses
            if read_lease(self.folder).get("owner") == self.owner:
                self.folder.remove(FILE)

    def _keep(self) -> None:
        while not self._ended.wait(self.beat_s):
            try:
                there = read_lease(self.folder)
                if there and there.get("owner") != self.owner:
                    self.lost.set()
                    if self.on_lost is not None:
                        self.on_lost()
                    return
                if not self._ended.is_set():
                    self._renew()
            except OSError:
                continue  # storage is away for a while: the next beat may reach it

    def _renew(self) -> None:
        self._beat += 1
        held = round(time.monotonic() - self._since)
        values = {"owner": self.owner, "beat": self._beat, **_me(), "held_s": held, "written": time.time()}
        self.folder.write(FILE, json.dumps(values))


def wait_until_free(folder: Folder, *, beat_s: float = BEAT_S, lapse_s: float = LAPSE_S) -> None:
    """Return when no driver has the run (at once if there is no lease; a dead one is removed); ConfigError if one has.

    Takes as long as it needs to tell the two apart without comparing clocks: LAPSE_S at most.
    """
    first = read_lease(folder)
    if not first:
        return
    alive = _alive_here(first)
    if alive:
        raise ConfigError(_refusal(folder, first))
    until = time.monotonic() + lapse_s
    while alive is None and time.monotonic() < until:
        time.sleep(min(1.0, beat_s / 4))
        now = read_lease(folder)
        if not now:
            return
        if (now.get("owner"), now.get("beat")) != (first.get("owner"), first.get("beat")):
            raise ConfigError(_refusal(folder, now))
    if read_lease(folder).get("owner") == first.get("owner"):
        folder.remove(FILE)


def read_lease(folder: Folder) -> dict[str, Any]:
    """What the lease says, {} if there is none or it is garbage. Raises OSError if storage cannot be reached."""
    try:
        values = json.loads(folder.read(FILE))
    except FileNotFoundError:
        return {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def seems_held(lease: dict[str, Any]) -> bool:
    """Whether a driver seems to have this lease; a guess by the clock where it is another machine's. For lists, not for
    taking it.
    """
    if not lease:
        return False
    alive = _alive_here(lease)
    written = lease.get("written")
    return alive if alive is not None else isinstance(written, int | float) and time.time() - written < LAPSE_S


def _alive_here(lease: dict[str, Any]) -> bool | None:
    """Whether the lease's driver lives; None if it is on another machine (or in another container), where that cannot
    be seen.
    """
    if lease.get("machine") != _machine():
        return None
    pid = lease.get("pid")
    return isinstance(pid, int) and process_lives(pid) and lease.get("started") == _start_time(pid)


def _refusal(folder: Folder, lease: dict[str, Any]) -> str:
    told = lease.get("held_s")
    held = duration(told if isinstance(told, int | float) else 0)
    return (
        f"{folder}: this run is being trained already, by process {lease.get('pid')} on {lease.get('host')} for "
        f"{held}; wait for it, end it, or give this one another --name"
    )


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def _machine() -> str:
    """Equal for processes that see each other's pids: same boot of the same machine, same pid namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _start_time(pid: int) -> int | None:
    """When a process was started, in ticks since boot; None where that cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
