"""What a run writes down for people: log lines, events and pictures through its writers (writers/), the pictures also
as samples/NAME.png, and status.json. Rank 0 only.

All of it lies in the run's folder. In an object store the growing files are written to a local folder and uploaded with
each checkpoint. After a resume what lies past the checkpoint is dropped, so that each point of the curves appears once.
What cannot be written down (a full disk, a storage that is away) is left out: it must not stop the training that it
tells of.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distgan.config import LogConfig
from distgan.kinds.picture import Picture, png
from distgan.registry import LOG_WRITERS
from distgan.storage import Folder, local_copy
from distgan.text import printable
from distgan.training.writers.base import LogWriter

STATUS = "status.json"
EVENTS = 20  # of the newest that a status tells: whoever watches sees some status within a few seconds

Tell = Callable[[int, str], None]
"""Gets each event as it is recorded: the number of samples seen, and the text."""


class RunLog:
    """The log of one run. `nimg` is the checkpoint that the run goes on from (0 at the beginning); `tell` is of someone
    in this process who wants to hear of events, others read them in the status.
    """

    def __init__(self, folder: Folder, nimg: int, config: LogConfig | None = None, tell: Tell | None = None) -> None:
        self.folder, self.local, self._tell = folder, local_copy(folder), tell
        self.local.mkdir(parents=True, exist_ok=True)
        self._events: list[dict[str, Any]] = []
        self._values: dict[str, Any] = {}
        self._writer = {"host": socket.gethostname(), "pid": os.getpid(), "from_nimg": nimg, "since": time.time()}
        if not folder.is_local and folder.exists("metrics.jsonl"):
            (self.local / "metrics.jsonl").write_bytes(folder.read("metrics.jsonl"))
        self._writers: list[LogWriter] = []
        self._last_status = 0.0
        self._sender: threading.Thread | None = None
        refused = []
        for name in (config or LogConfig()).chosen_writers:
            try:
                self._writers.append(LOG_WRITERS[name](self.local, nimg))
            except UnicodeError:
                where = printable(str(self.local))
                refused.append(f"log.writers = {name}: cannot write below {where}, whose name is not UTF-8")
        self.event(nimg, *refused)

    def scalars(self, nimg: int, values: dict[str, float]) -> None:
        """One point of each curve."""
        self._each(lambda writer: writer.scalars(nimg, values))

    def event(self, nimg: int, *texts: str) -> None:
        """What a person should know: a warning, a rollback, a damaged checkpoint, a storage that is away. Each one is
        recorded, and told at once.
        """
        for text in texts:
            self._each(lambda writer, text=text: writer.event(nimg, text))  # type: ignore[misc]
        self.tell(nimg, *texts)

    def tell(self, nimg: int, *texts: str) -> None:
        """An event that is not recorded: what depends on this machine and the clock."""
        for text in texts:
            self._events = [*self._events[1 - EVENTS :], {"nimg": nimg, "text": text}]
            if self._tell is not None:
                self._tell(nimg, text)
        if texts and self._values:
            self.status(self._values)

    def picture(self, nimg: int, name: str, picture: Picture) -> None:
        """A preview of samples, uint8 (H, W) or (H, W, 3), as samples/NAME.png and with the writers."""
        _try(lambda: self.folder.write(f"samples/{name}.png", png(picture)))
        self._each(lambda writer: writer.picture(nimg, "samples" if name[:1].isdigit() else name, picture))

    def rewind(self, nimg: int) -> None:
        """Forget what is later than `nimg`: the run goes on from there."""
        self._each(lambda writer: writer.rewind(nimg))

    def _each(self, action: Callable[[LogWriter], None]) -> None:
        for writer in self._writers:
            _try(lambda writer=writer: action(writer))  # type: ignore[misc]

    @property
    def silent_s(self) -> float:
        """Seconds since the last status."""
        return time.time() - self._last_status

    def status(self, values: dict[str, Any], *, urgent: bool = False) -> None:
        """The run's heartbeat, status.json; at most every 5 s in an object store, and never in the training loop's
        way.
        """
        self._values = values
        if not self.folder.is_local:
            if not urgent and time.time() - self._last_status < 5:
                return
            if self._sender is not None and self._sender.is_alive() and not urgent:
                return
        self._last_status = time.time()
        data = json.dumps({**values, "events": self._events, "writer": self._writer, "heartbeat": time.time()})
        if self.folder.is_local:
            write_status(self.folder, data)
        else:
            if self._sender is not None:
                self._sender.join()
            self._sender = threading.Thread(target=write_status, args=(self.folder, data), daemon=True)
            self._sender.start()
            if urgent:
                self._sender.join()

    def sync(self) -> None:
        """Bring the growing files to storage (remote only)."""
        self._each(lambda writer: writer.flush())
        if not self.folder.is_local:
            self.folder.upload(self.local, "")

    def close(self) -> None:
        """The last lines to storage; OSError if they cannot be brought there (an object store)."""
        self._each(lambda writer: writer.close())
        self._writers = []
        self.sync()
        if not self.folder.is_local:
            shutil.rmtree(self.local, ignore_errors=True)


def _try(action: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError):
        action()


def write_status(folder: Folder, data: str) -> None:
    """Replace status.json; a heartbeat that fails must not stop the training it tells of."""
    try:
        if folder.is_local:  # no fsync: it is written often, and losing the last one with the machine is harmless
            target = Path(folder.path(STATUS))
            aside = target.with_name(f".{STATUS}.tmp")
            aside.write_text(data, encoding="utf-8")
            aside.replace(target)
        else:
            folder.write(STATUS, data)
    except OSError:
        pass


def read_status(folder: Folder) -> dict[str, Any]:
    """The run's last status, {} if there is none that can be read."""
    try:
        values = json.loads(folder.read(STATUS))
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}
