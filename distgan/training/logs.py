"""What a run writes down for people: metrics.jsonl, TensorBoard events, sample grids, status.json. Rank 0 only.

All of it lies in the run's folder. In an object store the growing files are written to a local folder and uploaded with
each checkpoint. After a resume the lines past the checkpoint are dropped, so that each point of the curves appears
once. What cannot be written down (a full disk, a storage that is away) is left out: it must not stop the training that
it tells of.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distgan.kinds.image.grid import enlargement, make_grid, png
from distgan.storage import Folder, local_copy

STATUS = "status.json"


class RunLog:
    """The log writers of one run. `nimg` is the checkpoint that the run goes on from (0 at the beginning)."""

    def __init__(self, folder: Folder, nimg: int, *, tensorboard: bool = True) -> None:
        self.folder, self.local = folder, local_copy(folder)
        self.local.mkdir(parents=True, exist_ok=True)
        self._lines = self.local / "metrics.jsonl"
        self._told: list[str] = []
        self._writer = {"host": socket.gethostname(), "pid": os.getpid(), "from_nimg": nimg}
        self._keep_lines(nimg)
        self._file = self._lines.open("a")
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(
                str(self.local / "tensorboard"), purge_step=nimg + 1 if nimg else None, flush_secs=10
            )
        self._last_status = 0.0
        self._sender: threading.Thread | None = None

    def _keep_lines(self, nimg: int) -> None:
        """Fetch metrics.jsonl (remote) and keep its lines up to the checkpoint; a torn last line goes too."""
        if not self.folder.is_local and self.folder.exists("metrics.jsonl"):
            self._lines.write_bytes(self.folder.read("metrics.jsonl"))
        if self._lines.exists():
            kept = [line for line in self._lines.read_text(errors="replace").splitlines() if _nimg(line) <= nimg]
            aside = self._lines.with_name(".metrics.jsonl.tmp")
            aside.write_text("".join(f"{line}\n" for line in kept))
            aside.replace(self._lines)

    def rewind(self, nimg: int) -> None:
        """Forget the lines after `nimg`: the run goes on from there."""
        self._file.close()
        if self.folder.is_local or self._lines.exists():
            kept = [line for line in self._lines.read_text().splitlines() if _nimg(line) <= nimg]
            self._lines.write_text("".join(f"{line}\n" for line in kept))
        self._file = self._lines.open("a")

    def scalars(self, nimg: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl and one point of each curve."""
        line: dict[str, float | None] = {"nimg": nimg, "kimg": nimg / 1000, "time": round(time.time(), 3)}
        line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
        _try(lambda: self._append(line))
        if self._events is not None:
            _try(lambda: self._events.file_writer.add_summary(_points(values), nimg))

    def event(self, nimg: int, *texts: str) -> None:
        """What a person should know: a rollback, a damaged checkpoint, a storage that is away. The next status tells it
        too.
        """
        for text in texts:
            line = {"nimg": nimg, "kimg": nimg / 1000, "time": round(time.time(), 3), "event": text}
            self._told = [*self._told[-4:], text]
            _try(lambda line=line: self._append(line))  # type: ignore[misc]
            if self._events is not None:
                _try(lambda text=text: self._events.add_text("events", text, nimg))  # type: ignore[misc]

    def _append(self, line: dict[str, Any]) -> None:
        if not self._file.closed:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def grid(self, nimg: int, name: str, images: npt.NDArray[np.uint8], columns: int | None = None) -> None:
        """A grid of images uint8 (N, C, H, W) as samples/NAME.png and in TensorBoard."""
        picture = make_grid(images, columns)
        _try(lambda: self.folder.write(f"samples/{name}.png", png(picture, enlargement(images.shape[-1]))))
        if self._events is not None:
            tag = "samples" if name[:1].isdigit() else name
            _try(lambda: self._events.add_image(tag, picture, nimg, dataformats="HW" if picture.ndim == 2 else "HWC"))

    def status(self, values: dict[str, Any], *, urgent: bool = False) -> None:
        """The run's heartbeat, status.json; at most every 5 s in an object store, and never in the training loop's
        way.
        """
        if not self.folder.is_local:
            if not urgent and time.time() - self._last_status < 5:
                return
            if self._sender is not None and self._sender.is_alive() and not urgent:
                return
        self._last_status = time.time()
        data = json.dumps({**values, "notes": self._told, "writer": self._writer, "heartbeat": time.time()})
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
        if self._events is not None:
            _try(self._events.flush)
        if not self.folder.is_local:
            self.folder.upload(self.local, "")

    def close(self) -> None:
        """The last lines to storage; OSError if they cannot be brought there (an object store)."""
        if self._events is not None:
            _try(self._events.close)
            self._events = None
        _try(self._file.close)
        self.sync()
        if not self.folder.is_local:
            shutil.rmtree(self.local, ignore_errors=True)


def _points(values: dict[str, float]) -> Any:
    """A point of each curve in one TensorBoard event: one apiece takes ten times as long."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def _try(action: Callable[[], Any]) -> None:
    with contextlib.suppress(OSError):
        action()


def write_status(folder: Folder, data: str) -> None:
    """Replace status.json; a heartbeat that fails must not stop the training it tells of."""
    try:
        if folder.is_local:  # no fsync: it is written often, and losing the last one with the machine is harmless
            target = Path(folder.path(STATUS))
            aside = target.with_name(f".{STATUS}.tmp")
            aside.write_text(data)
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


def _nimg(line: str) -> float:
    try:
        return float(json.loads(line)["nimg"])
    except (ValueError, KeyError, TypeError):
        return math.inf
